"""What of a look is done for all processes of a tree at once, before each of them is looked at."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from core.live.process import LiveProcess
from core.live.shared_file import SharedFile
from core.memory.dirty.uffd import scan_last
from core.resources import aio


def prepare_looks(processes: Iterable[LiveProcess], *, last: bool = False) -> None:
    """While they run."""
    for process in processes:
        with suppress(OSError):  # it has ended
            if last:
                process.read_flags()
            process.note_direct()


def look_at_all(found: Sequence[tuple[LiveProcess, bytes | OSError]], *, last: bool) -> None:
    """Each with its maps. Asynchronous I/O of those that stand still ends; before the last look, their pages are
    scanned: of whom maps other memory than before it is done later."""
    ways = [(process, maps) for process, maps in found if isinstance(maps, bytes)]
    aio.wait_idle([process.pid for process, maps in ways if process.frozen and b"[aio]" in maps])
    if last:
        scan_last([(one.need_tracker(), one.current) for one, maps in ways if maps == one.maps])


def distrust(processes: Iterable[LiveProcess], files: Iterable[SharedFile]) -> None:
    """What the look told may change once more, of which no look will tell: the next one tells it again."""
    for process in processes:
        process.need_tracker().keep_pending(process.pending)
    for file in files:
        file.distrust()
