"""VMAs of an address space: collect() from /proc/PID/maps, plan() from the VMAs a task has to those it shall have.

plan_update serves the whole restore (from nothing) and every pre-copy round (from the last one). Pages that stay mapped
the same way keep what landed in them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from core.errors import Blocker, CollectError
from core.images.flags import VmaStatus
from core.images.pb.memory_pb2 import VmaEntry
from core.kernel.hugetlb import MAP_HUGETLB, page_size_of_device, size_flags
from core.memory.huge import judge_huge
from core.memory.ranges import PAGE_SIZE, Ranges
from core.plan.ops import FdAllocator, Program, Syscall, path_argument
from core.plan.segments import SegmentKind, SegmentUse
from core.proc.maps import HUGE_ANONYMOUS, Vma

REGULAR, STACK, VSYSCALL, VDSO, HEAP = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5
FILE_PRIVATE, FILE_SHARED, ANON_SHARED, ANON_PRIVATE, VVAR = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 12
SYSVIPC, MEMFD = 1 << 10, 1 << 14
PAGE: Final = 4096
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_NORESERVE = 0x1, 0x2, 0x20, 0x100, 0x4000
MAP_FIXED_NOREPLACE: Final = 0x100000
AT_FDCWD: Final = (1 << 64) - 100
O_RDONLY, O_RDWR, O_CLOEXEC = 0, 2, 0o2000000
SHM_RDONLY, SHM_EXEC = 0o10000, 0o100000
MAP_LOCKED, MADV_NOHUGEPAGE = 0x2000, 15
KERNEL_VMAS: Final = {"[vdso]": VDSO, "[vvar]": VVAR, "[vvar_vclock]": VVAR, "[vsyscall]": VSYSCALL}
DEVICE_HINT: Final = "stop what uses the device (GPU, RDMA, DPDK, packet sockets); memory pinned for it stays behind"
OWN_UFFD_HINT: Final = "a process that handles its own page faults cannot be moved; end what does that"
HUGE_HINT: Final = "huge pages of 2 MiB are carried where they have no path and may be written to"
# smaps VmFlags that mean memory of a kind that cannot be carried: why, and what to do
REFUSED_FLAGS: Final = {
    "io": ("is device memory", DEVICE_HINT),
    "pf": ("maps device pages", DEVICE_HINT),
    "um": ("is served by a userfaultfd of its own", OWN_UFFD_HINT),
    "uw": ("is write-protected by a userfaultfd of its own", OWN_UFFD_HINT),
    "ui": ("is served by a userfaultfd of its own (minor faults)", OWN_UFFD_HINT),
    "nl": ("is a non-linear mapping", "replace remap_file_pages(2) by mmap(2)"),
    "ss": ("is a shadow stack", "start it without: GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK"),
}
REFUSED_PATHS: Final = {
    "/secretmem (deleted)": ("is secret memory (memfd_secret)", "nobody but the process can read it: end its use"),
    "anon_inode:[io_uring]": ("is a ring of io_uring", "close the io_uring; buffers registered with it are pinned"),
}


GROWING: Final = MAP_PRIVATE | MAP_HUGETLB  # private memory does, by mremap(2), but not huge pages


@dataclass(frozen=True, slots=True)
class MappedVma:
    """A VMA to be: the image's entry and, for a file, what to open."""

    entry: VmaEntry
    path: str = ""
    segment: int = 0  # the shared memory that it maps, by id; `path` then only names it
    segment_end: int = 0  # bytes of that, up to a page

    @property
    def start(self) -> int:
        """First byte."""
        return self.entry.start

    @property
    def end(self) -> int:
        """Past the last byte."""
        return self.entry.end

    @property
    def is_private_huge(self) -> bool:
        """Private memory of huge pages (hugetlb)."""
        return bool(self.entry.flags & MAP_HUGETLB and self.entry.status & ANON_PRIVATE)


def is_shared_memory(path: str) -> bool:
    """Memory that tasks share and that no path leads to, by the name that a mapping of it has."""
    if path.startswith(("/memfd:", "/SYSV")):
        return path.endswith(" (deleted)")
    return path in ("/dev/zero (deleted)", HUGE_ANONYMOUS)


def is_kernel_vma(entry: VmaEntry) -> bool:
    """[vdso], [vvar], [vsyscall]: not mapped by a plan but moved or left alone; guard pages are no mapping at all."""
    return bool(entry.status & (VDSO | VVAR | VSYSCALL | VmaStatus.GUARD))


def carries_pages(entry: VmaEntry) -> bool:
    """True when the VMA's own pages are content: private memory. Shared file pages are in the file."""
    return bool(entry.status & (ANON_PRIVATE | FILE_PRIVATE)) and not is_kernel_vma(entry)


def refuse(vma: Vma, flags: frozenset[str]) -> Blocker | None:
    """Why this VMA cannot be carried; None when it can. `flags` are the VmFlags of smaps."""
    subject = f"vma {vma.start:#x}-{vma.end:#x} {vma.path or '(anonymous)'}"
    if vma.name in KERNEL_VMAS:
        return None
    if "ht" in flags and (reason := judge_huge(vma, has_path=not is_shared_memory(vma.path))):
        return Blocker("vma-kind", subject, reason, HUGE_HINT)
    for flag, (reason, hint) in REFUSED_FLAGS.items():
        if flag in flags:
            return Blocker("vma-kind", subject, reason, hint)
    if is_shared_memory(vma.path):
        return None
    for path, (reason, hint) in REFUSED_PATHS.items():
        if vma.path.startswith(path):
            return Blocker("vma-kind", subject, reason, hint)
    if vma.path.startswith("anon_inode:") or vma.path.startswith("socket:"):
        return Blocker(
            "vma-kind", subject, "maps a kernel object", "close what uses it (io_uring, perf, packet socket)"
        )
    if vma.shared and vma.is_anonymous:
        return Blocker("vma-kind", subject, "is shared memory of an unknown kind", "not carried yet")
    return None


def collect(
    vma: Vma, flags: frozenset[str], file_ids: Mapping[str, int], segment: SegmentUse | None = None
) -> VmaEntry:
    """The image's entry for a VMA; `file_ids` gives the id of each mapped path's file entry, `segment` the memory
    without a path that it maps.
    """
    kernel = KERNEL_VMAS.get(vma.name)
    protection = PROT_READ * vma.readable | PROT_WRITE * vma.writable | PROT_EXEC * vma.executable
    entry = VmaEntry(start=vma.start, end=vma.end, pgoff=vma.offset, shmid=0, prot=protection, fd=-1)
    entry.flags = MAP_SHARED if vma.shared else MAP_PRIVATE
    entry.status = REGULAR
    if kernel is not None:
        entry.flags |= MAP_ANONYMOUS
        entry.pgoff = 0
        # CRIU counts [vdso] and [vvar] as regular anonymous areas too, but never [vsyscall].
        entry.status = kernel if kernel == VSYSCALL else REGULAR | ANON_PRIVATE | kernel
    elif segment is not None:
        _collect_segment(entry, vma, flags, segment)
    elif vma.is_private_huge:
        _collect_anonymous(entry, vma, flags)
        entry.flags |= MAP_HUGETLB | size_flags(page_size_of_device(os.makedev(*vma.device)))
    elif vma.is_aio_ring:
        entry.status |= VmaStatus.AIORING
    elif vma.inode or vma.path.startswith("/"):
        _collect_file(entry, vma, flags, file_ids)
    else:
        _collect_anonymous(entry, vma, flags)
    if "nr" in flags:
        entry.flags |= MAP_NORESERVE
    return entry


def _collect_file(entry: VmaEntry, vma: Vma, flags: frozenset[str], file_ids: Mapping[str, int]) -> None:
    if vma.path not in file_ids:
        raise CollectError(f"vma {vma.start:#x}-{vma.end:#x}", f"no file was collected for {vma.path}")
    entry.shmid = file_ids[vma.path]
    entry.status |= FILE_SHARED if vma.shared else FILE_PRIVATE
    entry.fdflags = O_RDWR if vma.shared and (vma.writable or "mw" in flags) else 0


def _collect_segment(entry: VmaEntry, vma: Vma, flags: frozenset[str], segment: SegmentUse) -> None:
    """One that can never be written must stay so: a sealed memfd takes no others."""
    entry.shmid = segment.shmid
    entry.fdflags = O_RDONLY if not vma.shared or (flags and "mw" not in flags) else O_RDWR
    match segment.kind:
        case SegmentKind.MEMFD:
            entry.status |= MEMFD | (FILE_SHARED if vma.shared else FILE_PRIVATE)
        case SegmentKind.SYSV:
            entry.flags |= MAP_ANONYMOUS
            entry.status |= SYSVIPC | ANON_SHARED
        case SegmentKind.ANONYMOUS:
            entry.flags |= MAP_ANONYMOUS
            entry.status |= ANON_SHARED
            entry.segment_size = segment.size
            if huge := size_flags(segment.page_size):
                entry.flags |= MAP_HUGETLB | huge
        case SegmentKind.FILE:
            entry.status |= FILE_SHARED if vma.shared else FILE_PRIVATE


def _collect_anonymous(entry: VmaEntry, vma: Vma, flags: frozenset[str]) -> None:
    entry.flags |= MAP_ANONYMOUS
    entry.pgoff = 0
    entry.status |= ANON_PRIVATE
    if vma.name == "[heap]":
        entry.status |= HEAP
    if vma.name == "[stack]" or "gd" in flags:
        entry.flags |= MAP_GROWSDOWN
        entry.status |= STACK if vma.name == "[stack]" else 0


def backing(vma: MappedVma) -> tuple[object, ...]:
    """What makes two VMAs the same memory, wherever their borders are; protection is not part of it."""
    entry = vma.entry
    kind = (entry.flags & ~(MAP_NORESERVE | MAP_LOCKED), vma.path, vma.segment)
    return (*kind, entry.pgoff - entry.start) if vma.path else kind


@dataclass(frozen=True, slots=True)
class VmaUpdate:
    """The steps from one list of VMAs to another: what to take away, what grows, what to make, what only changes
    protection. `stays` is what keeps its pages."""

    unmap: tuple[tuple[int, int], ...]
    grow: tuple[tuple[int, int], ...]
    create: tuple[MappedVma, ...]
    protect: tuple[tuple[int, int, int], ...]
    stays: Ranges


def compare(old: Sequence[MappedVma], new: Sequence[MappedVma]) -> VmaUpdate:
    """Pure interval arithmetic: cut both lists at every border, then look at each piece."""
    borders = sorted({point for vma in (*old, *new) for point in (vma.start, vma.end)})
    before, after = _pieces(old, borders), _pieces(new, borders)
    unmap: list[tuple[int, int]] = []
    grow: list[tuple[int, int]] = []
    create: list[MappedVma] = []
    protect: list[tuple[int, int, int]] = []
    stays: list[tuple[int, int]] = []
    left: MappedVma | None = None  # what is there already, or has grown, up to this piece
    for start, end in pairwise(borders):
        was, shall = before.get(start), after.get(start)
        if was is not None and (shall is None or backing(was) != backing(shall)):
            _extend(unmap, start, end)
            was = None
        if shall is None:
            left = None
        elif was is not None:
            left = was
            stays.append((start, end))
        elif left is not None and left.entry.flags & GROWING == MAP_PRIVATE and backing(left) == backing(shall):
            _extend(grow, start, end)
        else:
            left = None
            create.append(_cut(shall, start, end))
        if left is not None and shall is not None and left.entry.prot != shall.entry.prot:
            protect.append((start, end, shall.entry.prot))
    return VmaUpdate(tuple(unmap), tuple(grow), tuple(_joined(create)), tuple(protect), Ranges.ordered(stays))


def _pieces(vmas: Sequence[MappedVma], borders: Sequence[int]) -> dict[int, MappedVma]:
    found: dict[int, MappedVma] = {}
    position = 0
    for vma in sorted(vmas, key=lambda vma: vma.start):
        while borders[position] < vma.start:
            position += 1
        while borders[position] < vma.end:
            found[borders[position]] = vma
            position += 1
    return found


def _extend(ranges: list[tuple[int, int]], start: int, end: int) -> None:
    if ranges and ranges[-1][1] == start:
        ranges[-1] = (ranges[-1][0], end)
    else:
        ranges.append((start, end))


def _cut(vma: MappedVma, start: int, end: int) -> MappedVma:
    if (start, end) == (vma.start, vma.end):
        return vma
    entry = VmaEntry()
    entry.CopyFrom(vma.entry)
    entry.start, entry.end = start, end
    if vma.path:
        entry.pgoff += start - vma.start
    return replace(vma, entry=entry)


def _joined(vmas: Iterable[MappedVma]) -> list[MappedVma]:
    """Pieces of one VMA that follow each other, as one again."""
    joined: list[MappedVma] = []
    for vma in vmas:
        last = joined[-1] if joined else None
        if last and last.end == vma.start and last.entry.prot == vma.entry.prot and backing(last) == backing(vma):
            joined[-1] = _lengthened(last, vma.end)
        else:
            joined.append(vma)
    return joined


def _lengthened(vma: MappedVma, end: int) -> MappedVma:
    entry = VmaEntry()
    entry.CopyFrom(vma.entry)
    entry.end = end
    return replace(vma, entry=entry)


Handed = Mapping[tuple[int, int], int]
"""Descriptors of shared memory that are in the task already: (segment, O_RDWR or O_RDONLY) → number."""


def descriptors_needed(old: Sequence[MappedVma], new: Sequence[MappedVma]) -> list[tuple[int, int]]:
    """What plan_update(old, new) wants handed; System V segments are attached by their id."""
    if not any(vma.segment for vma in new):
        return []
    made = compare(old, new).create
    found = ((vma.segment, vma.entry.fdflags & O_RDWR) for vma in made if vma.segment and not _is_sysv(vma))
    return list(dict.fromkeys(found))


def _is_sysv(vma: MappedVma) -> bool:
    return bool(vma.entry.status & SYSVIPC)


def plan_update(
    old: Sequence[MappedVma], new: Sequence[MappedVma], fds: FdAllocator, handed: Handed | None = None
) -> Program:
    """Ops that turn the VMAs `old` into `new`, and close what was `handed`. Kernel VMAs are not among either."""
    update, handed = compare(old, new), handed or {}
    ops = [Syscall("munmap", (start, end - start), f"{start:#x}-{end:#x} is gone") for start, end in update.unmap]
    ops += [_plan_grow(start, end) for start, end in update.grow]
    ops += _plan_attach([vma for vma in update.create if _is_sysv(vma)])
    ops += [_plan_mmap(vma, handed.get((vma.segment, vma.entry.fdflags & O_RDWR), -1)) for vma in update.create
            if vma.segment and not _is_sysv(vma)]  # fmt: skip
    for number in handed.values():
        fds.release(number)
        ops.append(Syscall("close", (number,), "shared memory"))
    ops += _plan_create([vma for vma in update.create if not vma.segment], fds)
    ops += [
        Syscall("mprotect", (start, end - start, prot), f"{start:#x}-{end:#x} protection {prot}")
        for start, end, prot in update.protect
    ]
    return tuple(ops)


def _plan_attach(vmas: Sequence[MappedVma]) -> list[Syscall]:
    """shmat(2) each segment where it was attached, whole, and take away what the task has unmapped of it since."""
    attached: dict[tuple[int, int], list[MappedVma]] = {}
    for vma in vmas:
        attached.setdefault((vma.entry.shmid, vma.start - vma.entry.pgoff), []).append(vma)
    ops: list[Syscall] = []
    for (id, base), parts in attached.items():
        executable = any(part.entry.prot & PROT_EXEC for part in parts)
        writable = any(part.entry.fdflags & O_RDWR for part in parts)
        flags = (0 if writable else SHM_RDONLY) | (SHM_EXEC if executable else 0)
        ops.append(Syscall("shmat", (id, base, flags), f"{parts[0].path} at {base:#x}"))
        usual = (PROT_READ if not writable else PROT_READ | PROT_WRITE) | (PROT_EXEC if executable else 0)
        position = base
        for part in parts:
            if part.start > position:
                ops.append(_plan_detach(part, position, part.start))
            if part.entry.prot != usual:
                size = part.end - part.start
                ops.append(Syscall("mprotect", (part.start, size, part.entry.prot), f"{part.path}: protection"))
            position = part.end
        if position < base + parts[0].segment_end:
            ops.append(_plan_detach(parts[0], position, base + parts[0].segment_end))
    return ops


def _plan_detach(vma: MappedVma, start: int, end: int) -> Syscall:
    return Syscall("munmap", (start, end - start), f"{vma.path}: {start:#x}-{end:#x} is not mapped")


def _plan_grow(start: int, end: int) -> Syscall:
    """A VMA that was inherited is never joined with a new one beside it, so the new memory must come of it."""
    arguments = (start - PAGE_SIZE, PAGE_SIZE, end - start + PAGE_SIZE, 0)
    return Syscall("mremap", arguments, f"memory grows by {start:#x}-{end:#x}")


def _plan_create(vmas: Sequence[MappedVma], fds: FdAllocator) -> list[Syscall]:
    """mmap each; a file is opened once for all its VMAs in a row."""
    ops: list[Syscall] = []
    opened: tuple[str, int, int] | None = None
    for vma in vmas:
        wanted = (vma.path, vma.entry.fdflags & 3)
        if opened and opened[:2] != wanted:
            ops.append(_plan_close(opened, fds))
            opened = None
        if vma.path and opened is None:
            opened = (*wanted, fds.take())
            flags = wanted[1] | O_CLOEXEC
            ops.append(Syscall("openat", (AT_FDCWD, path_argument(vma.path), flags, 0), f"mapped file {vma.path}"))
        ops.append(_plan_mmap(vma, opened[2] if opened else -1))
        if vma.entry.madv >> MADV_NOHUGEPAGE & 1:  # before pages land there: holes shall stay holes
            ops.append(Syscall("madvise", (vma.start, vma.end - vma.start, MADV_NOHUGEPAGE), "no huge pages"))
    if opened:
        ops.append(_plan_close(opened, fds))
    return ops


def _plan_close(opened: tuple[str, int, int], fds: FdAllocator) -> Syscall:
    fds.release(opened[2])
    return Syscall("close", (opened[2],), f"mapped file {opened[0]}")


def _plan_mmap(vma: MappedVma, fd: int) -> Syscall:
    entry = vma.entry
    size = entry.end - entry.start
    flags = (entry.flags | MAP_FIXED_NOREPLACE) & ~(MAP_LOCKED | (MAP_ANONYMOUS if vma.segment else 0))
    name = vma.path or ("[heap]" if entry.status & HEAP else "[stack]" if entry.status & STACK else "anonymous memory")
    return Syscall(
        "mmap", (entry.start, size, entry.prot, flags, fd, entry.pgoff), f"{name} {entry.start:#x}+{size:#x}"
    )
