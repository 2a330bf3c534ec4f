"""How long the freeze looks at shared memory of which 1 % was stored to since the last round: tracked, and compared."""

from core import EMPTY, DumpOptions, LiveSource
from core.options import TrackChoice
from tests.bench.sheet import Scale, Sheet
from tests.bench.stopped import attached, wait_written
from tests.bench.target import Target, started

TRACKERS: tuple[TrackChoice, ...] = ("uffd-wp", "hash")
PACE_NS = 100_000


def measure(scale: Scale, sheet: Sheet) -> None:
    """One anonymous segment."""
    mib = scale.image_mib[0]
    for tracker in TRACKERS:
        for _ in range(scale.runs):
            with (
                started("shared", str(mib), str(PACE_NS)) as target,
                attached(target.pid, DumpOptions(track=tracker)) as source,
            ):
                _one_run(target, source, f"{tracker}, {mib} MiB", sheet)


def _one_run(target: Target, source: LiveSource, name: str, sheet: Sheet) -> None:
    for _ in range(3):
        source.scan()
        pages = _take(source)
    before = target.written
    wait_written(target, max(1, pages_of(source) // 100 - pages))
    froze = source.freeze()
    sheet.add(f"{name}: stored to since the last round", "pages", target.written - before)
    sheet.add(f"{name}: sent in the freeze", "pages", _take(source))
    for phase, seconds in froze.phases:
        sheet.ms(f"{name}: {phase}", seconds)


def pages_of(source: LiveSource) -> int:
    """All that there are of shared memory."""
    return sum(shared.size for shared in source.shared) // 4096


def _take(source: LiveSource) -> int:
    """Read what is pending."""
    for process in source.processes.values():
        process.was_sent(EMPTY)
    pages = sum(shared.pending.total_pages for shared in source.shared)
    for shared in source.shared:
        for _ in shared.read(shared.pending):
            pass
        shared.was_sent()
    return pages
