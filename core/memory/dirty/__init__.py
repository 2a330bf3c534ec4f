"""Which pages a running process has written since the last look: the contract of the trackers.

uffd.py, soft_dirty.py and hashes.py implement it, choose.py picks by what the kernel can do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.memory.pages import PageBatch
from core.memory.present import PageSets
from core.memory.ranges import EMPTY, Ranges
from core.proc.maps import Vma


@dataclass(frozen=True, slots=True)
class Untracked:
    """A VMA that cannot be tracked: all that is present in it counts as dirty every time."""

    start: int
    end: int
    path: str
    reason: str

    def __str__(self) -> str:
        return f"vma {self.start:x}-{self.end:x} {self.path or 'anonymous'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class DirtyRound:
    """Pages changed since the round before (in the first: all there are).

    `ranges` have to be read and sent, `zero` are the kernel's zero page now, `guard` guard pages now. Pages that
    have gone are not told: see `present`.
    """

    ranges: Ranges = EMPTY
    zero: Ranges = EMPTY
    guard: Ranges = EMPTY
    seconds: float = 0.0
    untracked: tuple[Untracked, ...] = ()


@dataclass(frozen=True, slots=True)
class LastRound:
    """Nothing runs any more: what is dirty, and all the pages there are (the destination drops everything else)."""

    dirty: DirtyRound
    present: PageSets


@dataclass(frozen=True, slots=True)
class SharedWrites:
    """Stores of one process to shared memory that it maps, by its addresses. Others' stores are for others to tell.

    `watched`: where no store is missed from now on while it stays mapped; `written`: stored to since the look before;
    `unknown`: stores since then may have been missed. `hides_removals`: a page that was taken out of the file and read
    again is not told.
    """

    watched: Ranges = EMPTY
    written: Ranges = EMPTY
    unknown: Ranges = EMPTY
    hides_removals: bool = False


class DirtyTracker(Protocol):
    """One process's memory. The order that loses nothing: collect_and_rearm, then read what it told. In each look
    collect_shared comes before collect_and_rearm or collect_last, which are of private memory."""

    @property
    def needs_stop(self) -> bool:
        """Whether the caller has to stop all threads around collect_and_rearm."""

    @property
    def by_content(self) -> bool:
        """Whether it compares with what the copy has, and so must hear by forget of what that has given up."""

    def collect_and_rearm(self, vmas: Sequence[Vma]) -> DirtyRound:
        """What is dirty in `vmas` (of /proc/PID/maps just now), and from here on count anew. TraceeError."""

    def collect_last(self, vmas: Sequence[Vma]) -> LastRound:
        """The same for a process of which nothing runs any more: one look for all, and nothing is armed again."""

    def collect_shared(self, vmas: Sequence[Vma], *, last: bool = False) -> SharedWrites:
        """What was stored to these VMAs of shared memory, and from here on count anew unless it is the last look."""

    def note_read(self, batch: PageBatch) -> None:
        """These pages go to the copy as they are in `batch`."""

    def forget(self, lost: Ranges) -> None:
        """The copy has given these pages up."""

    def keep_pending(self, missing: Ranges) -> None:
        """Pages that were told but could not be read: the next round tells them again if they are there."""

    def present(self, vmas: Sequence[Vma]) -> Ranges:
        """All pages that need carrying now (at the freeze: the destination drops everything else)."""

    def close(self) -> None:
        """Stop tracking; the process is left as it was."""
