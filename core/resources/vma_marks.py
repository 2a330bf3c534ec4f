"""What a mapping carries besides pages: advice (madvise), locks (mlock), guard pages, protection keys, a name, a seal.

collect() notes them in the image's entries, plan() gives them again: late, when all pages are in their place.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final

from core.images.flags import VmaStatus
from core.images.pb.memory_pb2 import MmEntry, VmaEntry
from core.kernel.calls import syscall
from core.memory.present import KERNEL_VMAS
from core.memory.ranges import Ranges
from core.plan.ops import Argument, Out, Program, Result, Syscall, path_argument
from core.proc.maps import Vma
from core.tracee.borrow import Results

PAGE: Final = 4096
NO_FD: Final = (1 << 64) - 1
PROT_NONE, PROT_READ, PROT_READ_WRITE = 0, 1, 3
PRIVATE_ANONYMOUS: Final = 0x22
MAP_LOCKED: Final = 0x2000
MLOCK_ONFAULT: Final = 1
MCL_FUTURE, MCL_ONFAULT = 2, 4
MS_INVALIDATE: Final = 2
MADV_GUARD_INSTALL: Final = 102
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
BEYOND: Final = (1 << 56) - PAGE  # where nothing can be mapped, with five levels of page tables either
KEYS: Final = range(1, 16)
# The two letters of smaps and the madvise(2) that brings them about.
ADVICE: Final = {"dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16, "wf": 18}
ADVICE_NAMES: Final = {
    10: "MADV_DONTFORK", 12: "MADV_MERGEABLE", 14: "MADV_HUGEPAGE", 15: "MADV_NOHUGEPAGE", 16: "MADV_DONTDUMP",
    18: "MADV_WIPEONFORK",
}  # fmt: skip


class MarkQuestions:
    """Asked once per address space: what mlockall(2) says of mappings to come, and which protection keys are taken.

    A locked mapping answers msync(MS_INVALIDATE) with EBUSY, and one that is filled at once has its page in core.
    A key that is taken gets as far as finding nothing mapped.
    """

    def __init__(self) -> None:
        why = "mlockall(MCL_FUTURE)"
        self.mapped = Syscall("mmap", (0, PAGE, PROT_READ_WRITE, PRIVATE_ANONYMOUS, NO_FD, 0), why, may_fail=True)
        place: Argument = Result(self.mapped)
        self.locked = Syscall("msync", (place, PAGE, MS_INVALIDATE), why, may_fail=True)
        self.filled = Syscall("mincore", (place, PAGE, Out(1)), why, may_fail=True)
        self.unmapped = Syscall("munmap", (place, PAGE), why, may_fail=True)
        self.keys = {
            key: Syscall("pkey_mprotect", (BEYOND, PAGE, PROT_READ, key), "protection key", may_fail=True)
            for key in (KEYS if probe_protection_keys() else ())
        }

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return (self.mapped, self.locked, self.filled, self.unmapped, *self.keys.values())


@cache
def probe_protection_keys() -> bool:
    """Whether this CPU and kernel have protection keys."""
    try:
        syscall("pkey_free", syscall("pkey_alloc", 0, 0))
    except OSError:
        return False
    return True


def collect(entry: VmaEntry, vma: Vma, flags: frozenset[str]) -> None:
    """Note the marks of a VMA; `flags` are its VmFlags."""
    entry.madv = sum(1 << advice for letters, advice in ADVICE.items() if letters in flags)
    if "lo" in flags:
        entry.flags |= MAP_LOCKED
        if "lf" in flags:
            entry.locked_on_fault = True
    if key := next((flag for flag in flags if flag.startswith("key")), ""):
        entry.protection_key = int(key[3:])
    if "sl" in flags and vma.name not in KERNEL_VMAS:
        entry.sealed = True
    if vma.name.startswith("[anon:"):
        entry.name = vma.name[len("[anon:") : -1]


def collect_mm(questions: MarkQuestions, results: Results, guards: Ranges, mm: MmEntry) -> None:
    """Note what belongs to all of the address space; `guards` are its guard pages, which are entries as in CRIU."""
    for start, end in guards:
        guard = VmaEntry(start=start, end=end, pgoff=0, shmid=0, prot=PROT_NONE, fd=-1)
        guard.flags, guard.status = PRIVATE_ANONYMOUS, VmaStatus.GUARD
        mm.vmas.append(guard)
    if results.value(questions.locked) == -errno.EBUSY:
        in_core = results.out(questions.filled, 2)[:1] == b"\1"
        mm.lock_future = MCL_FUTURE | (0 if in_core else MCL_ONFAULT)
    elif results.value(questions.mapped) == -errno.EAGAIN:  # it would be locked, and that is more than it may lock
        mm.lock_future = MCL_FUTURE
    taken = [key for key, question in questions.keys.items() if results.value(question) == -errno.ENOMEM]
    mm.protection_keys = sum(1 << key for key in taken)


def plan(mm: MmEntry) -> Program:
    """Give an address space its marks. It has all its mappings and pages, and all rights still."""
    entries = sorted((one for one in mm.vmas if not one.status & VmaStatus.GUARD), key=lambda entry: entry.start)
    guards = Ranges.of((one.start, one.end) for one in mm.vmas if one.status & VmaStatus.GUARD)
    return (
        *_plan_advice(entries), *_plan_keys(mm, entries), *_plan_guards(guards), *_plan_locks(mm, entries, guards),
        *_plan_names(entries),
    )  # fmt: skip


def plan_seal(mm: MmEntry) -> Program:
    """Seal what was sealed: from then on nobody can unmap, move or protect it otherwise. Source: mseal(2)."""
    sealed = sorted((one.start, one.end) for one in mm.vmas if one.sealed)
    return tuple(
        Syscall("mseal", (start, end - start, 0), f"seal {start:#x}-{end:#x}") for start, end in Ranges.ordered(sealed)
    )


def _plan_advice(entries: Sequence[VmaEntry]) -> Iterator[Syscall]:
    for advice, name in ADVICE_NAMES.items():
        for start, end in _spans(entry for entry in entries if entry.madv >> advice & 1):
            yield Syscall("madvise", (start, end - start, advice), f"{name} {start:#x}-{end:#x}")


def _plan_guards(guards: Ranges) -> Iterator[Syscall]:
    for start, end in guards:
        yield Syscall("madvise", (start, end - start, MADV_GUARD_INSTALL), f"guard pages {start:#x}-{end:#x}")


def _plan_keys(mm: MmEntry, entries: Sequence[VmaEntry]) -> Iterator[Syscall]:
    """pkey_alloc(2) gives the lowest free key: take all up to the highest, give back those between."""
    taken = mm.protection_keys
    for key in range(1, taken.bit_length()):
        yield Syscall("pkey_alloc", (0, 0), f"protection key {key}")
    for key in range(1, taken.bit_length()):
        if not taken >> key & 1:
            yield Syscall("pkey_free", (key,), f"protection key {key}")
    for entry in entries:  # memory that may only be executed has a key of the kernel's, which is not among those taken
        if taken >> entry.protection_key & 1:
            where = (entry.start, entry.end - entry.start, entry.prot, entry.protection_key)
            yield Syscall("pkey_mprotect", where, f"protection key of {entry.start:#x}-{entry.end:#x}")


def _plan_locks(mm: MmEntry, entries: Sequence[VmaEntry], guards: Ranges) -> Iterator[Syscall]:
    """What cannot be filled (no access, guard pages) is locked all the same, and the call says ENOMEM."""
    for flag in (0, MLOCK_ONFAULT):
        locked = [one for one in entries if one.flags & MAP_LOCKED and one.locked_on_fault == bool(flag)]
        unfit = [one for one in locked if one.prot == PROT_NONE or guards.overlaps(one.start, one.end)]
        for one in unfit:
            size = one.end - one.start
            yield Syscall("mlock2", (one.start, size, flag), f"mlock {one.start:#x}+{size:#x}", may_fail=not flag)
        for start, end in _spans(one for one in locked if one not in unfit):
            yield Syscall("mlock2", (start, end - start, flag), f"mlock {start:#x}-{end:#x}")
    if mm.lock_future:
        yield Syscall("mlockall", (mm.lock_future,), "mlockall(MCL_FUTURE)")


def _plan_names(entries: Sequence[VmaEntry]) -> Iterator[Syscall]:
    """A name is for people: a kernel that cannot give it does no harm."""
    for entry in entries:
        if entry.name:
            where = (entry.start, entry.end - entry.start, path_argument(entry.name))
            yield Syscall("prctl", (PR_SET_VMA, PR_SET_VMA_ANON_NAME, *where), f"name {entry.name}", may_fail=True)


def _spans(entries: Iterable[VmaEntry]) -> Ranges:
    """What ascending entries cover: neighbours together."""
    return Ranges.ordered((entry.start, entry.end) for entry in entries)
