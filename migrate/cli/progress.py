"""What a person sees while a process moves: the words for each event, and a plain display of one line per event.

Owns no terminal control (that is live.py) and takes no decision.
"""

import time
from collections.abc import Callable
from typing import TextIO, assert_never

from migrate.cli.words import count, downtime_lines, rate, seconds, size
from migrate.events import (
    Blocked,
    Done,
    Event,
    Failed,
    InDoubt,
    Notice,
    Phase,
    PhaseStarted,
    RoundDone,
    RoundProgress,
    Started,
    Throttled,
)

PAGE_BYTES = 4096
MOVING, CHECKING = "Moving", "Checking"
DOING = {
    Phase.CONNECT: "connecting",
    Phase.PREFLIGHT: "checking both hosts",
    Phase.AGREE: "preparing the destination",
    Phase.ATTACH: "attaching to the process",
    Phase.PRECOPY: "copying memory while the process runs",
    Phase.FREEZE: "freezing the process, sending the last pages",
    Phase.RESTORE: "restoring, stopped, at the destination",
    Phase.HAND_OVER: "handing over",
    Phase.RESUME: "resuming at the destination",
    Phase.RELEASE: "removing the copy here",
    Phase.ROLL_BACK: "rolling back: the process runs on here",
    Phase.SETTLE: "settling which copy runs",
}


def started_line(event: Started, title: str) -> str:
    """What moves where; the id is what `migrate resolve` takes, and a check has nothing to resolve."""
    migration = f"   (migration {event.migration_id})" if title == MOVING else ""
    return f"{title} PID {event.pid} → {event.destination}{migration}"


def round_line(event: RoundDone) -> str:
    """A finished round: pages that were dirty, bytes sent for them. Columns that stand below each other, within 80."""
    sent = (
        f"{size(event.sent_bytes):>10}  {rate(event.bytes_per_s):>12}" if event.sent_bytes else f"{'nothing sent':>24}"
    )
    return (
        f"round {event.number:>2}  {event.dirty_pages:>9,} pages  {sent}  "
        f"expected downtime {seconds(event.expected_downtime_s)}"
    )


def in_round_line(event: RoundProgress) -> str:
    """Inside a round."""
    return (
        f"round {event.number:>2}  {event.done_pages:>9,} of {event.total_pages:,} pages  "
        f"{size(event.sent_bytes)}  {rate(event.bytes_per_s)}"
    )


def throttled_line(event: Throttled) -> str:
    """The brake is on, or off again."""
    if event.cpu_share >= 1:
        return "the process has its whole CPU time again"
    return f"the process gets {event.cpu_share:.0%} of its CPU time: it writes faster than we can send"


def done_lines(event: Done, started: Started | None) -> list[str]:
    """The summary: where it runs, the downtime and its parts, what went over."""
    where = f" on {started.destination}" if started else " at the destination"
    moved = f"PID {started.pid}" if started else "the process"
    name_there = f" as PID {event.pids[0]}" if started and event.pids and event.pids[0] != started.pid else ""
    traffic = f"{size(event.sent_bytes)} sent for {size(event.pages * PAGE_BYTES)} of memory pages"
    return [
        f"Done: {moved} runs{where}{name_there}. Downtime {seconds(event.downtime_s)}, of which:",
        "",
        *(f"  {line}" for line in downtime_lines(event.phases)),
        "",
        f"  {count(event.rounds, 'round')}, {count(event.pages, 'page')}, {traffic}, {seconds(event.total_s)} in all",
    ]


class PlainDisplay:
    """One line per phase, round and notice. `verbose` adds the progress inside rounds."""

    def __init__(
        self,
        stream: TextIO,
        title: str = MOVING,
        *,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._title = title
        self._verbose = verbose
        self._clock = clock
        self._begin = clock()
        self._started: Started | None = None

    def __call__(self, event: Event) -> None:
        """Show one event. Refusals, failures and doubt are said at the end, by whoever runs the command."""
        match event:
            case Started():
                self._started = event
                self._write(started_line(event, self._title))
            case PhaseStarted():
                self._timed(DOING[event.phase])
            case RoundDone():
                self._timed(round_line(event))
            case RoundProgress():
                if self._verbose:
                    self._timed(in_round_line(event))
            case Throttled():
                self._timed(throttled_line(event))
            case Notice():
                self._timed(f"note: {event.text}")
            case Done():
                for line in done_lines(event, self._started):
                    self._write(line)
            case Blocked() | Failed() | InDoubt():
                pass
            case _:
                assert_never(event)

    def note(self, text: str) -> None:
        """A line that is no event."""
        self._timed(text)

    def close(self) -> None:
        """Nothing to put back."""

    def _timed(self, text: str) -> None:
        self._write(f"[{self._clock() - self._begin:6.1f} s] {text}")

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
