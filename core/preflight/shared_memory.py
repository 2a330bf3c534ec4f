"""Shared memory of the target that others have too, or that the other side has no room for. Nothing is stopped.

The kernel has no list of who maps an object: everybody's maps and descriptors are looked through.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker, MigrateError
from core.memory.ranges import PAGE_SIZE
from core.plan.segments import SegmentKind
from core.preflight.memory import huge_pages_of
from core.proc.main_thread import main_threads
from core.proc.reader import ProcReader
from core.proc.sysvipc import SysvNeed
from core.resources.context import OpenFile, looking_at
from core.resources.shared_memory import DELETED, MEMFD_PREFIX, Inode, Segment, Segments, kind_of_link
from core.tracee.family import Family, read_family
from core.tracee.sharers import find_sharers

HINT: Final = "move all who share it as one tree, or end the others"
LOOKS: Final = 4  # while the tree forks


@dataclass(frozen=True, slots=True)
class SharedFindings:
    """What there is against it, how many bytes it is, how many huge pages of which size, and the System V segments."""

    blockers: tuple[Blocker, ...] = ()
    size_bytes: int = 0
    huge_pages: tuple[tuple[int, int], ...] = ()
    sysv: tuple[SysvNeed, ...] = ()


def collect_shared(family: Family, files: Sequence[OpenFile], reader: ProcReader, *, own_ipc: bool) -> SharedFindings:
    """All shared memory of a running tree whose open files are `files`. `own_ipc`: this thread is in an IPC namespace
    that is the tree's own."""
    segments = Segments(reader)
    segments.own_ipc = own_ipc
    try:
        for _ in range(LOOKS):
            segments.forget_unseen()
            findings = _look(family, files, segments, reader)
            if not findings.blockers:
                break
            family = read_family(family.members[0].tgid, reader)
        return findings
    finally:
        segments.close()


def _look(family: Family, files: Sequence[OpenFile], segments: Segments, reader: ProcReader) -> SharedFindings:
    sharers = find_sharers([member.pid for member in family.living], reader)
    for member in family.living:
        if member.pid in sharers:  # the same VMAs once more
            continue
        try:
            for vma in reader.maps(member.pid):
                segments.mapped(member.pid, vma)
        except (MigrateError, OSError):  # it ended, or unmapped it meanwhile
            continue
    for file in files:
        if kind_of_link(file.link) is SegmentKind.MEMFD:
            with looking_at(file):
                segments.opened(f"/proc/self/fd/{file.local_fd}", file.link)
    refused = segments.find_unattached()
    by_inode = {one.inode: one for one in segments}
    if not by_inode:
        return SharedFindings(tuple(refused))
    inside = {os.getpid(), *family.pids}
    found = dict(_outsiders(by_inode, inside, reader))
    inside.update(read_family(family.members[0].tgid, reader).pids)
    blockers = [
        Blocker("shared-memory", by_inode[inode].link.removesuffix(DELETED), _reason(pid, reader), HINT)
        for inode, pid in found.items()
        if pid not in inside and by_inode[inode].kind is not SegmentKind.SYSV
    ]
    # Where the namespace is its own it is told who is in there, and the tree may attach and detach all the time.
    blockers += refused + (segments.refuse_elsewhere() if segments.own_ipc else segments.refuse_attached())
    sysv = {inode for (_, inode), one in by_inode.items() if one.kind is SegmentKind.SYSV}
    return SharedFindings(
        tuple(blockers),
        sum(os.fstat(one.fd).st_blocks * 512 for one in segments if one.page_size == PAGE_SIZE),
        huge_pages_of((one.page_size, one.size) for one in segments if one.page_size != PAGE_SIZE),
        tuple(SysvNeed(one.key, one.id) for one in reader.sysv_segments() if one.id in sysv)
        if sysv and not segments.own_ipc
        else (),
    )


def _reason(pid: int, reader: ProcReader) -> str:
    try:
        return f"process {pid} ({reader.comm(pid)}) has this memory too"
    except OSError:
        return f"process {pid} had this memory too"


def _outsiders(by_inode: Mapping[Inode, Segment], inside: set[int], reader: ProcReader) -> Iterator[tuple[Inode, int]]:
    """(device and inode, pid) of all that map one of them or have it open."""
    line = re.compile(r" ([0-9a-f]+):([0-9a-f]+) (\d+) +/(?:dev/zero|memfd:|SYSV|anon_hugepage)")
    for pid in main_threads(reader, inside):
        try:
            inodes = {
                (os.makedev(int(major, 16), int(minor, 16)), int(inode))
                for major, minor, inode in line.findall(reader.text(pid, "maps"))
            }
            inodes |= _open_memfds(pid, reader)
        except OSError:  # it ended, or is not ours to look at
            continue
        yield from ((inode, pid) for inode in inodes if inode in by_inode)


def _open_memfds(pid: int, reader: ProcReader) -> set[Inode]:
    memfds = [fd for fd in reader.fds(pid) if reader.fd_link(pid, fd).startswith(MEMFD_PREFIX)]
    found = [reader.fd_stat(pid, fd) for fd in memfds]
    return {(one.st_dev, one.st_ino) for one in found}
