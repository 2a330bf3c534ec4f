"""The usage line as man pages write it: PID, not {PID}."""

from typer.core import TyperCommand
from typer.models import Context


class PlainUsage(TyperCommand):
    """A command whose usage line has no braces and names options last."""

    def collect_usage_pieces(self, ctx: Context) -> list[str]:  # type: ignore[override]
        """The words after the command's name."""
        options, *arguments = super().collect_usage_pieces(ctx)
        return [*(piece.removeprefix("{").removesuffix("}") for piece in arguments), options]
