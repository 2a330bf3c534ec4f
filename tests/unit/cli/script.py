"""A migration's events without a migration: python -m tests.unit.cli.script [--slowly] [migrate's view options].

For looking at the displays, and for tests of them.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import Blocker
from migrate.cli.watch import View, watch
from migrate.events import (
    Blocked,
    Done,
    Event,
    Failed,
    InDoubt,
    Notice,
    Phase,
    PhaseSeconds,
    PhaseStarted,
    RoundDone,
    RoundProgress,
    Started,
    Throttled,
)

STARTED = Started("7f3a9c21", 4711, "root@host-b")
PARTS = (
    PhaseSeconds("freeze", 0.0012), PhaseSeconds("collect", 0.0091), PhaseSeconds("last pages", 0.0064),
    PhaseSeconds("restore", 0.0055), PhaseSeconds("restore: files", 0.0021), PhaseSeconds("restore: threads", 0.0009),
    PhaseSeconds("hand over", 0.0008), PhaseSeconds("resume", 0.0013),
)  # fmt: skip
DONE = Done("7f3a9c21", 0.0243, PARTS, 8.2, 4, 146_812, 421_330_944, (4711,))
BLOCKED = Blocked((
    Blocker("fd-tcp-established", "fd 9 (socket:[81123])", "established TCP connection 10.0.0.1:6379-10.0.0.7:51234",
            "--tcp close: the program finds it closed by its peer"),
    Blocker("fd-tcp-established", "fd 10 (socket:[81124])", "established TCP connection 10.0.0.1:6379-10.0.0.7:51236",
            "--tcp close: the program finds it closed by its peer"),
    Blocker("file-missing", "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "is not there at root@host-b",
            "install the same package over there"),
    Blocker("pid-taken", "pid 4711", "is taken at root@host-b by cron", "--pid namespace gives it one of its own"),
))  # fmt: skip
FAILED = Failed(
    "downtime of 0.05 s: 9120 dirty pages no longer shrink: freezing now would take about 0.31 s",
    "allow more with --max-downtime, or have it wait for calmer times with --deadline", "GaveUp",
)  # fmt: skip
DOUBT = InDoubt(
    "7f3a9c21", "stopped, held by cgroup /system.slice/migrate-7f3a9c21", "unknown", "destination: no answer for 30 s",
    "migrate resolve 7f3a9c21",
)  # fmt: skip
SIZES = ((131_072, 4.41, 1.2), (11_204, 0.62, 0.31), (3_310, 0.21, 0.09))
SPEED = 118e6


def begin() -> Iterator[Event]:
    """Up to the end of pre-copy."""
    yield STARTED
    yield PhaseStarted(Phase.CONNECT, 0.0)
    yield Notice("running under sudo: using the keys, config and known_hosts of ana in /home/ana/.ssh, then root's own")
    for at_s, phase in ((0.3, Phase.PREFLIGHT), (0.5, Phase.AGREE), (0.6, Phase.ATTACH), (0.8, Phase.PRECOPY)):
        yield PhaseStarted(phase, at_s)
    for number, (pages, took_s, expected_s) in enumerate(SIZES, 1):
        for part in range(0, 101, 4):
            yield RoundProgress(number, pages * part // 100, pages, pages * part * 40, SPEED)
        yield RoundDone(number, pages, int(pages * 2900), took_s, SPEED, expected_s)
    yield Throttled(0.5)


def finish() -> Iterator[Event]:
    """From the freeze to the end."""
    for phase in (Phase.FREEZE, Phase.RESTORE, Phase.HAND_OVER, Phase.RESUME, Phase.RELEASE):
        yield PhaseStarted(phase, 7.0)
    yield DONE


ENDINGS: dict[str, Event] = {"blocked": BLOCKED, "failed": FAILED, "doubt": DOUBT}


def events(ending: str) -> Iterator[Event]:
    """A whole migration that comes out as `ending` says."""
    match ending:
        case "done":
            yield from begin()
            yield from finish()
        case "failed":
            yield from begin()
            yield PhaseStarted(Phase.ROLL_BACK, 7.0)
            yield FAILED
        case "doubt":
            yield from begin()
            yield from (event for event in finish() if not isinstance(event, Done))
            yield DOUBT
        case _:
            yield from list(begin())[:4]
            yield BLOCKED


def main(arguments: list[str]) -> int:
    """Show one of the endings as the arguments say."""
    view = View("--json" in arguments, arguments.count("-v"), Path("/dev/null"))
    with watch(view) as watching:
        for event in events(arguments[0]):
            watching.emit(event)
            if "--slowly" in arguments:
                time.sleep(0.05)
        return watching.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
