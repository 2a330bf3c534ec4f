"""What a coordinator asks of the engines, as the options that core takes; and how long things took, as it is told."""

from collections.abc import Sequence
from typing import Literal, cast

from core import ActionScripts, DumpOptions, FileChoices, RestoreOptions, TerminalChoice, TrackChoice
from migrate.pb import control_pb2 as pb

NEW_TERMINAL = "new"
SCRIPT_LIMIT_S = 5.0  # less than our coordinator's patience with us


def dump_options(request: pb.Attach) -> DumpOptions:
    """Of a source."""
    return DumpOptions(
        tcp=cast(Literal["refuse", "close", "established"], request.tcp or "refuse"), shell_job=request.shell_job,
        track=None if request.track in ("", "auto") else cast(TrackChoice, request.track),
        scripts=_scripts(request.action_scripts), files=_file_choices(request.files),
    )  # fmt: skip


def restore_options(request: pb.Agree) -> RestoreOptions:
    """Of a destination."""
    pid_mode: Literal["keep", "namespace"] = "namespace" if request.pid_mode == "namespace" else "keep"
    return RestoreOptions(
        tcp="close", shell_job=request.shell_job, pid_mode=pid_mode, scripts=_scripts(request.action_scripts),
        terminal="" if request.tty == NEW_TERMINAL else request.tty,
    )  # fmt: skip


def phase_times(phases: Sequence[tuple[str, float]]) -> list[pb.PhaseTime]:
    """Seconds by phase."""
    return [pb.PhaseTime(name=name, seconds=seconds) for name, seconds in phases]


def _file_choices(choices: pb.FileChoices) -> FileChoices:
    limit = choices.ghost_limit if choices.HasField("ghost_limit") else None
    terminal = cast(TerminalChoice, choices.terminal or "refuse")
    carried = frozenset(choices.carried)
    return FileChoices(choices.ext_unix_sk, choices.file_locks, choices.link_remap, limit, terminal, carried)


def _scripts(files: Sequence[str]) -> ActionScripts:
    return ActionScripts(tuple(files), limit_s=SCRIPT_LIMIT_S)
