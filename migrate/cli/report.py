"""What a person reads when it did not simply work: refusals, failures, doubt, wrong usage. Lines of text, no output."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby

from core.errors import Blocker
from migrate.cli.words import count, seconds
from migrate.events import Failed, InDoubt

WIDEST_SUBJECT = 36
NARROWEST_REASON = 30


def refusal_lines(blockers: Sequence[Blocker], width: int = 100) -> list[str]:
    """Every blocker: subject, reason, and below the last of those that share it the hint."""
    head = f"migrate: refused, {count(len(blockers), 'reason')}; nothing was touched"
    column = max((len(one.subject) for one in blockers if len(one.subject) <= WIDEST_SUBJECT), default=4)
    lines = [head]
    for hint, group in groupby(blockers, key=lambda one: one.hint):
        for one in group:
            lines += _row(one.subject, one.reason, column, width)
        if hint:
            lines += _row("", f"→ {hint}", column, width, hanging=2)
    return lines


def _row(subject: str, reason: str, column: int, width: int, hanging: int = 0) -> list[str]:
    room = max(width - column - 4, NARROWEST_REASON)
    wrapped = textwrap.wrap(
        reason, room, subsequent_indent=" " * hanging, break_long_words=False, break_on_hyphens=False
    ) or [""]  # fmt: skip
    if len(subject) > column:  # a long path stands alone, whole: people copy it
        return [f"  {subject}", *(f"  {'':<{column}}  {text}" for text in wrapped)]
    return [f"  {label:<{column}}  {text}" for label, text in zip([subject, *[""] * len(wrapped)], wrapped)]  # noqa: B905


def failure_lines(failed: Failed, pid: int | None, *, has_ended: bool = False) -> list[str]:
    """Why it failed, what to do, and that the process runs on, unless it has ended meanwhile."""
    fate = "has ended meanwhile" if has_ended else f"runs on here, unharmed{_stood_still(failed.stopped_s)}"
    head = [f"migrate: failed: {failed.message}", *hint_lines(failed.hint)]
    return head if pid is None else [*head, f"  PID {pid} {fate}."]


def _stood_still(stopped_s: float) -> str:
    return f"; it stood still for {seconds(stopped_s)}" if stopped_s > 0 else ""


def untouched_lines(failed: Failed) -> list[str]:
    """The same for what failed before anything was touched: that counts as a refusal."""
    return [f"migrate: refused: {failed.message}", *hint_lines(failed.hint), "  Nothing was touched."]


def doubt_lines(doubt: InDoubt) -> list[str]:
    """Where both copies stand, and the one command that settles it."""
    return [
        f"migrate: in doubt: {doubt.reason}",
        f"  here          {doubt.source}",
        f"  destination   {doubt.destination}",
        "  Neither copy is started or removed on a guess. This settles it:",
        "",
        f"      {doubt.command}",
        "",
    ]


def usage_lines(message: str, hint: str | None, command: str) -> list[str]:
    """What was wrong with the command line."""
    return [f"migrate: {message}", *hint_lines(hint), f"  `{command} --help` shows what there is."]


def hint_lines(hint: str | None) -> list[str]:
    """A hint of its own line; none without one."""
    return [f"  → {hint}"] if hint else []


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Left-aligned columns, two blanks apart."""
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
