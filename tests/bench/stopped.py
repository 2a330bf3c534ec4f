"""How long a target stands still for an attach and for a pre-copy round, by our clock and by its own; and how many
pages are sent for each page it writes, by its own count."""

from core import DumpOptions, LiveSource
from core.live.process import LiveProcess
from core.memory.dirty.soft_dirty import probe_soft_dirty
from core.options import TrackChoice
from migrate.pagesrv.sender import PageSender
from tests.bench.sheet import Scale, Sheet
from tests.bench.target import Target, started
from tests.roundtrip.targets import attached
from tests.waiting import wait_until

PACE_NS = 20_000
WRITER = "a writer of 50,000 pages/s"
TRACKERS: tuple[TrackChoice, ...] = ("uffd-wp", "soft-dirty", "hash")


def measure(scale: Scale, sheet: Sheet) -> None:
    """All trackers of this kernel, one target after the other."""
    for tracker in TRACKERS:
        if tracker == "soft-dirty" and not probe_soft_dirty():
            continue
        for _ in range(scale.runs):
            with started("writer", str(scale.live_mib), str(PACE_NS)) as target:
                _one_run(target, tracker, scale, sheet)


def _one_run(target: Target, tracker: TrackChoice, scale: Scale, sheet: Sheet) -> None:
    stride = scale.live_mib * 256 // 4  # pages; well below one walk through its memory
    undisturbed = _longest_of(target, stride)
    target.longest_s()
    with attached(target.pid, DumpOptions(track=tracker)) as source:
        sheet.ms(f"{tracker}: {WRITER}, its longest gap undisturbed", undisturbed)
        sheet.ms(f"{tracker}: stopped by attach, our clock", source.stopped_s)
        sheet.ms(f"{tracker}: its longest gap over attach", target.longest_s())
        _rounds(target, source, tracker, scale.rounds, stride, sheet)
    sheet.ms(f"{tracker}: its longest gap over thaw", target.longest_s())


def _longest_of(target: Target, pages: int) -> float:
    """Its longest gap while it writes so many pages."""
    target.longest_s()
    wait_written(target, pages)
    return target.longest_s()


def wait_written(target: Target, pages: int) -> None:
    """Until it has written so many more."""
    goal = target.written + pages
    wait_until(lambda: target.written >= goal, f"{pages} pages written", deadline_s=60)


def _rounds(target: Target, source: LiveSource, tracker: str, rounds: int, stride: int, sheet: Sheet) -> None:
    process = next(iter(source.processes.values()))
    with open("/dev/null", "wb") as nowhere:
        sender = PageSender(nowhere.fileno(), "none")
        source.scan()
        _send(sender, process, 0)
        sheet.ms(f"{tracker}: its longest gap over round 1, all its pages sent", target.longest_s())
        began, sent = None, 0
        for number in range(1, rounds + 1):
            wait_written(target, stride)
            sheet.ms(f"{tracker}: its longest gap between rounds (write faults, noise)", target.longest_s())
            stopped_s = source.scan().stopped_s
            sheet.ms(f"{tracker}: its longest gap over the scan of a round", target.longest_s())
            sheet.ms(f"{tracker}: stopped by a round, our clock", stopped_s)
            counted = target.written
            pages = _send(sender, process, number)
            sent, began = (sent + pages, began) if began is not None else (0, counted)
    sheet.add(f"{tracker}: pages sent per page written", "×", sent / max(1, counted - (began or 0)))


def _send(sender: PageSender, process: LiveProcess, number: int) -> int:
    count = sender.send_round(number, process.own_pid, process.page_reader(1), process.pending)
    process.was_sent(count.missing)
    return count.pages
