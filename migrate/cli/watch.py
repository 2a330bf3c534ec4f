"""Follows one migration: hands each event to whoever shows or records it, and knows the exit code at the end.

Owns where output goes (standard output, the events file, standard error), not how it looks.
"""

import logging
import os
import select
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol, TextIO, TypeAlias

from core.errors import MigrateError, Refused, UsageError
from migrate.cli.logs import MigrationStamp, keep_traceback, start_logging
from migrate.cli.progress import MOVING, PlainDisplay
from migrate.cli.report import doubt_lines, failure_lines, refusal_lines, untouched_lines
from migrate.events import Blocked, Done, Event, Failed, InDoubt, Phase, PhaseStarted, RoundProgress, Started

Ending: TypeAlias = Done | Failed | Blocked | InDoubt
NOTHING_TOUCHED = frozenset({None, Phase.CONNECT, Phase.PREFLIGHT})
# From the hand-over on nobody may turn back alone.
NO_WAY_BACK = frozenset({Phase.HAND_OVER, Phase.RESUME, Phase.RELEASE, Phase.SETTLE})


class ExitCode(IntEnum):
    """What a script learns."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    IN_DOUBT = 4


class Display(Protocol):
    """Shows events to a person."""

    def __call__(self, event: Event) -> None:
        """One event."""

    def note(self, text: str) -> None:
        """A line that is no event."""

    def close(self) -> None:
        """Give the terminal back."""


@dataclass(frozen=True, slots=True)
class View:
    """How the user wants to be told."""

    json: bool = False
    verbosity: int = 0
    log_file: Path | None = None
    events_file: Path | None = None
    title: str = MOVING


class Watch:
    """The place that events go to. `ending` is the event that ended it, `phase` where it stands."""

    def __init__(
        self,
        sinks: Sequence[Callable[[Event], None]],
        display: Display | None,
        stamp: MigrationStamp,
        log_file: Path | None = None,
    ) -> None:
        self._sinks = sinks
        self._log_file = log_file
        self._display = display
        self._stamp = stamp
        self.started: Started | None = None
        self.phase: Phase | None = None
        self.furthest_untouched = True
        self.ending: Ending | None = None

    def emit(self, event: Event) -> None:
        """Record and show one event."""
        match event:
            case Started():
                self.started, self._stamp.migration_id = event, event.migration_id
            case PhaseStarted():
                self.phase = event.phase
                self.furthest_untouched = self.furthest_untouched and event.phase in NOTHING_TOUCHED
            case Done() | Failed() | Blocked() | InDoubt():
                self.ending = event
            case _:
                pass
        for sink in self._sinks:
            sink(event)

    def note(self, text: str) -> None:
        """Tell the person something that is no event."""
        if self._display:
            self._display.note(text)
        else:
            sys.stderr.write(f"migrate: {text}\n")

    def close(self) -> None:
        """Give the terminal back; again is no error."""
        if self._display:
            self._display.close()

    @property
    def can_turn_back(self) -> bool:
        """True until the hand-over begins."""
        return self.phase not in NO_WAY_BACK

    @property
    def resolve_command(self) -> str:
        """What settles this migration when its end is not known."""
        return f"migrate resolve {self.started.migration_id}" if self.started else "migrate status"

    def fail(self, error: MigrateError) -> None:
        """End by `error`, unless an event has said already how it ended."""
        if self.ending is not None:
            return
        if isinstance(error, Refused):
            self.emit(Blocked(error.blockers))
        else:
            self.emit(Failed(error.message, error.hint, type(error).__name__))

    def doubt(self, error: Exception) -> None:
        """A bug of ours after the hand-over began: nobody may say now that the source runs on."""
        reason = f"internal error: {type(error).__name__}: {error}; details in {keep_traceback(error, self._log_file)}"
        migration_id = self.started.migration_id if self.started else ""
        self.emit(InDoubt(migration_id, "unknown: see migrate status", "unknown", reason, self.resolve_command))

    def finish(self) -> ExitCode:
        """Say how it ended, on standard error unless it is done; the exit code."""
        self.close()
        pid = self.started.pid if self.started else None
        match self.ending:
            case Done():
                return ExitCode.DONE
            case Blocked(blockers):
                say(refusal_lines(blockers, terminal_width()))
                return ExitCode.REFUSED
            case Failed() as failed if self.furthest_untouched:
                say(untouched_lines(failed))
                return ExitCode.REFUSED
            case Failed() as failed:
                say(failure_lines(failed, pid, has_ended=pid is not None and has_ended(pid)))
                return ExitCode.FAILED
            case InDoubt() as doubt:
                say(doubt_lines(doubt))
                return ExitCode.IN_DOUBT
            case None:
                raise RuntimeError("the migration ended without saying how")


def has_ended(pid: int) -> bool:
    """True when there is no such process, or a zombie."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 0)[0])
    finally:
        os.close(pidfd)


def say(lines: Sequence[str], stream: TextIO | None = None) -> None:
    """Lines to a person; standard error unless told otherwise."""
    stream = stream or sys.stderr
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()


def terminal_width() -> int:
    """Columns of the terminal, 100 without one; never so wide that lines are hard to follow."""
    return min(shutil.get_terminal_size((100, 24)).columns, 120)


@contextmanager
def watch(view: View) -> Iterator[Watch]:
    """A Watch that shows as `view` says; closes its files and gives the terminal back."""
    stamp = MigrationStamp()
    start_logging(view.log_file, view.verbosity, stamp)
    sinks: list[Callable[[Event], None]] = []
    if view.json:
        sinks.append(JsonLines(sys.stdout))
    display = None if view.json else make_display(view)
    if display:
        sinks.append(display)
    if view.log_file:
        sinks.append(log_event)
    events_file = _open_events(view.events_file) if view.events_file else None
    if events_file:
        sinks.append(JsonLines(events_file))
    try:
        yield Watch(sinks, display, stamp, view.log_file)
    finally:
        if display:
            display.close()
        if events_file:
            events_file.close()


class JsonLines:
    """Writes each event as one JSON line, at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """One event."""
        self._stream.write(event.to_json() + "\n")
        self._stream.flush()


def log_event(event: Event) -> None:
    """So that a log file tells the whole story in its order; what repeats many times a second is for debugging."""
    level = logging.DEBUG if isinstance(event, RoundProgress) else logging.INFO
    logging.getLogger(__name__).log(level, "%s", event.to_json())


def make_display(view: View) -> Display:
    """The rewriting display on a terminal that can, else one line per event."""
    verbose = view.verbosity > 0
    if sys.stdout.isatty() and view.verbosity < 2:  # log lines in between would tear the display
        from rich.console import Console

        from migrate.cli.live import LiveDisplay

        console = Console(highlight=False)
        if not console.is_dumb_terminal:
            return LiveDisplay(console, view.title, verbose=verbose)
    return PlainDisplay(sys.stdout, view.title, verbose=verbose)


def _open_events(path: Path) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--events-file {path}: cannot be written: {error.strerror}") from error
