import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from migrate.cli.live import LiveDisplay
from migrate.cli.progress import DOING, PlainDisplay, done_lines, round_line
from migrate.events import Phase, PhaseStarted, RoundDone, RoundProgress
from tests.unit.cli.script import DONE, STARTED, begin, events

ROOT = Path(__file__).resolve().parents[3]
CURSOR_HIDDEN, CURSOR_SHOWN = b"\x1b[?25l", b"\x1b[?25h"


class Clock:
    """Time that stands until told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(ending: str, *, verbose: bool = False) -> list[str]:
    stream = io.StringIO()
    display = PlainDisplay(stream, verbose=verbose, clock=Clock())
    for event in events(ending):
        display(event)
    return stream.getvalue().splitlines()


def test_every_phase_has_words() -> None:
    assert set(DOING) == set(Phase)


def test_without_a_terminal_each_phase_and_round_is_one_line() -> None:
    lines = plain("done")
    assert lines[0] == "Moving PID 4711 → root@host-b   (migration 7f3a9c21)"
    assert sum("round " in line and "expected downtime" in line for line in lines) == 3
    assert "[   0.0 s] handing over" in lines
    assert not any("\x1b" in line for line in lines)


def test_verbose_tells_the_progress_inside_rounds() -> None:
    assert len(plain("done", verbose=True)) > len(plain("done")) + 50


def test_lines_carry_the_time_since_the_start() -> None:
    stream, clock = io.StringIO(), Clock()
    display = PlainDisplay(stream, clock=clock)
    clock.now = 12.34
    display(PhaseStarted(Phase.FREEZE, 12.3))
    assert stream.getvalue().startswith("[  12.3 s] freezing")


def test_the_summary_tells_downtime_by_phase_bytes_rounds_and_pages() -> None:
    text = "\n".join(done_lines(DONE, STARTED))
    assert text.startswith("Done: PID 4711 runs on root@host-b. Downtime 24.3 ms")
    for words in ("freeze", "collect", "last pages", "hand over", "resume", "4 rounds", "146,812 pages", "401.8 MiB"):
        assert words in text


def test_another_pid_over_there_is_named() -> None:
    import dataclasses

    moved = dataclasses.replace(DONE, pids=(12,))
    assert "as PID 12." in done_lines(moved, STARTED)[0]


def test_a_round_fits_a_terminal_of_80_columns() -> None:
    assert len(round_line(RoundDone(30, 9_999_999, 40 << 30, 400.0, 1023 << 20, 0.0999))) <= 78


def test_a_round_that_sent_nothing_has_no_rate_and_the_same_columns() -> None:
    nothing = round_line(RoundDone(2, 120, 0, 0.1, 0.0, 0.05))
    some = round_line(RoundDone(2, 120, 4096, 0.1, 40960.0, 0.05))
    assert "nothing sent" in nothing and "0 B" not in nothing and "/s" not in nothing
    assert nothing.index("expected") == some.index("expected")


def live(width: int = 80) -> tuple[LiveDisplay, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None, highlight=False)
    return LiveDisplay(console, clock=clock), stream, clock


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_place_never_wraps(width: int) -> None:
    display, stream, clock = live(width)
    for event in begin():
        clock.now += 0.2
        display(event)
    display.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    bars = [line for line in re.split(r"[\r\n]+", text) if "━" in line]
    assert bars and all(" of " in line and "MiB/s" in line and len(line) <= width for line in bars)


def test_progress_is_drawn_ten_times_a_second_at_most() -> None:
    display, stream, clock = live()
    display(PhaseStarted(Phase.PRECOPY, 0))
    before = len(stream.getvalue())
    display(RoundProgress(1, 1, 10, 4096, 1e6))
    assert len(stream.getvalue()) == before
    clock.now = 0.2
    display(RoundProgress(1, 2, 10, 8192, 1e6))
    assert len(stream.getvalue()) > before
    display.close()


@pytest.mark.parametrize("phase", [Phase.RESTORE, Phase.HAND_OVER, Phase.RESUME])
def test_nothing_is_drawn_while_the_process_stands_still(phase: Phase) -> None:
    display, stream, clock = live()
    display(PhaseStarted(Phase.FREEZE, 0))
    before = stream.getvalue()
    clock.now = 5
    display(PhaseStarted(phase, 1))
    assert stream.getvalue() == before
    display.close()


def on_a_terminal(ending: str) -> tuple[bytes, int]:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "tests.unit.cli.script", ending]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(argv, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:  # EIO: nobody has the terminal open any more
            pass
        os.close(ours)
    return seen, process.returncode


@pytest.mark.parametrize(
    ("ending", "code", "words"),
    [
        ("done", 0, "Done: PID 4711"),
        ("failed", 1, "runs on here"),
        ("blocked", 3, "4 reasons"),
        ("doubt", 4, "in doubt"),
    ],
)
def test_the_terminal_is_left_as_it_was(ending: str, code: int, words: str) -> None:
    seen, status = on_a_terminal(ending)
    assert status == code
    assert words.encode() in seen
    assert seen.count(CURSOR_HIDDEN) == seen.count(CURSOR_SHOWN)
    assert seen.rfind(CURSOR_SHOWN) >= seen.rfind(CURSOR_HIDDEN)


def test_json_is_one_event_per_line_on_standard_output() -> None:
    argv = [sys.executable, "-m", "tests.unit.cli.script", "blocked", "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["event"] for record in records][-1] == "blocked"
    assert records[-1]["blockers"][0]["hint"].startswith("--tcp close")
    assert done.returncode == 3 and "4 reasons" in done.stderr
