"""The display on a terminal: finished rounds scroll by, below them one place that is rewritten.

Drawn only when an event comes, never by a thread of its own: nothing of us runs beside the freeze.
"""

import time
from collections.abc import Callable
from typing import assert_never

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from migrate.cli.progress import DOING, MOVING, done_lines, round_line, started_line, throttled_line
from migrate.cli.words import rate
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

REDRAW_S = 0.1
# In these the process stands still; drawing waits until they are over.
STANDING_STILL = frozenset({Phase.RESTORE, Phase.HAND_OVER, Phase.RESUME})


class LiveDisplay:
    """Shows events on `console`, from the first until close()."""

    def __init__(
        self,
        console: Console,
        title: str = MOVING,
        *,
        verbose: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._title = title
        self._verbose = verbose
        self._clock = clock
        self._begin = clock()
        self._drawn_at = -REDRAW_S
        self._started: Started | None = None
        self._phase: Phase | None = None
        self._inside: RoundProgress | None = None
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __call__(self, event: Event) -> None:
        """Show one event. Refusals, failures and doubt are said at the end, by whoever runs the command."""
        match event:
            case Started():
                self._started = event
                self._print(Text(started_line(event, self._title), "bold"))
            case PhaseStarted():
                self._enter(event.phase)
            case RoundDone():
                self._inside = None
                self._print(Text(f"  {round_line(event)}"))
            case RoundProgress():
                self._inside = event
            case Throttled():
                self._print(Text(f"  {throttled_line(event)}", "yellow"))
            case Notice():
                self.note(f"note: {event.text}")
            case Done():
                self._finish(event)
            case Blocked() | Failed() | InDoubt():
                self.close()
            case _:
                assert_never(event)
        self._draw(at_once=not isinstance(event, RoundProgress))

    def note(self, text: str) -> None:
        """A line that is no event."""
        self._print(Text(f"  {text}", "yellow"))

    def close(self) -> None:
        """Take the place that is rewritten away; again is no error."""
        self._live.stop()
        self._phase = None

    def _enter(self, phase: Phase) -> None:
        if self._phase is None:
            self._live.start()
        self._phase, self._inside = phase, None
        if self._verbose:
            self._print(Text(f"  {self._clock() - self._begin:6.1f} s  {DOING[phase]}", "dim"))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _draw(self, *, at_once: bool) -> None:
        now = self._clock()
        if self._phase is None or self._phase in STANDING_STILL or (not at_once and now - self._drawn_at < REDRAW_S):
            return
        self._drawn_at = now
        self._live.update(self._picture(self._phase), refresh=True)

    def _picture(self, phase: Phase) -> RenderableType:
        elapsed = f"   {self._clock() - self._begin:.1f} s"
        head = Text.assemble(("  ● ", "cyan"), (DOING[phase], "bold"), (elapsed, "dim"), no_wrap=True)
        return Group(head, _round_bar(self._inside)) if self._inside else head

    def _finish(self, event: Done) -> None:
        self.close()
        head, *rest = done_lines(event, self._started)
        self._print(Text(head, "bold green"))
        for line in rest:
            self._print(Text(line))


def _round_bar(inside: RoundProgress) -> Table:
    total = max(inside.total_pages, 1)
    row = Table.grid(padding=(0, 2))
    for _ in range(5):
        row.add_column(no_wrap=True)
    row.add_row(
        f"    round {inside.number:>2}",
        ProgressBar(total=total, completed=inside.done_pages, width=18),
        f"{inside.done_pages / total:4.0%}",
        f"{inside.done_pages:,} of {inside.total_pages:,} pages",
        rate(inside.bytes_per_s),
    )
    return row
