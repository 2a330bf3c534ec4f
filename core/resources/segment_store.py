"""Makes the shared memory of a tree that is restored, and holds it while pages land in it and tasks attach to it.

Anonymous memory and memfds are nobody's until a task has them: nothing is left when we die. System V segments are the
host's: abandon() removes those that were made here, and if we are killed the next restore does (core.kernel.leftovers).
"""

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from core.errors import ImageError, Refused, RestoreError
from core.kernel.calls import address_of, syscall
from core.kernel.hugetlb import MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB, size_flags
from core.kernel.leftovers import Leftovers, sweep
from core.kernel.shmem import goes_with_last, open_mapping
from core.memory.file_pages import LandingFile, LandingMapping
from core.memory.ranges import PAGE_SIZE
from core.plan.segments import FIRST_ID, SegmentKind, SegmentSpec
from core.plan.terminals import FIRST_HANDED
from core.proc.reader import ProcReader
from core.proc.sysvipc import SysvNeed, refuse_taken

NEXT_ID: Final = "/proc/sys/kernel/shm_next_id"
IPC_CREAT, IPC_EXCL, IPC_RMID, IPC_SET, IPC_STAT = 0o1000, 0o2000, 0, 1, 2
SHM_DEST, SHM_LOCKED, SHM_LOCK = 0o1000, 0o2000, 11
SHMID_DS_SIZE: Final = 112
MAP_NORESERVE: Final = 0x4000
MFD_CLOEXEC, MFD_ALLOW_SEALING = 1, 2
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034
F_SEAL_SEAL: Final = 1
PERMISSIONS: Final = 0o777


@dataclass(slots=True)
class _Made:
    """One segment here: `fd` opens for reading and writing, `read_fd` for reading; `attached`: where we have it."""

    spec: SegmentSpec
    fd: int
    read_fd: int
    attached: int = 0
    memory: mmap.mmap | None = None  # what pages land through, where it cannot be written to as a file
    own_sysv: bool = False  # to be removed when the restore fails
    settled: bool = False


class SegmentStore:
    """The segments of one restore. close() on every way out, before it abandon() on all but the good one."""

    def __init__(self, elsewhere: Callable[[int], int]) -> None:
        """`elsewhere`: descriptors of what is handed to tasks and made by others, by id: files, terminals."""
        self._elsewhere = elsewhere
        self.own_ipc = False  # this thread is in an IPC namespace of the tree's: it goes with the tree
        self._made: dict[int, _Made] = {}
        self._leftovers = Leftovers()

    def make(self, specs: Mapping[int, SegmentSpec]) -> None:
        """Make those that are not there yet, empty, give all their sizes, drop those that are not named any more.

        Refused when a System V key or id is taken here.
        """
        for id in set(self._made) - set(specs):
            _give_up(self._made.pop(id))
        _refuse_taken(spec for id, spec in specs.items() if id not in self._made)
        for id, spec in specs.items():
            try:
                self._update(id, spec)
            except OSError as error:
                hint = "are there as many huge pages free here?" if spec.page_size != PAGE_SIZE else None
                raise RestoreError(f"{spec.name}: cannot be made: {error.strerror}", hint=hint) from error
            except (ValueError, OverflowError) as error:
                raise ImageError("segments", f"{spec.name}: {spec.size} bytes: {error}") from error

    def _update(self, id: int, spec: SegmentSpec) -> None:
        if id not in self._made:
            if spec.sysv is not None and not self.own_ipc:
                self._leftovers.note_segment(spec.sysv.desc.id)
            self._made[id] = _make(spec)
        made = self._made[id]
        if spec.kind is SegmentKind.MEMFD and os.fstat(made.fd).st_size != spec.size:
            os.ftruncate(made.fd, spec.size)
        made.spec = spec
        if spec.page_size != PAGE_SIZE and spec.size and not made.settled:
            _map(made)

    def ids(self) -> list[int]:
        """All of them."""
        return list(self._made)

    def spec(self, id: int) -> SegmentSpec:
        """What it shall be."""
        return self._made[id].spec

    def landing(self, id: int) -> LandingFile:
        """Where its pages land."""
        made = self._made[id]
        return LandingFile(made.fd) if made.memory is None else LandingMapping(made.fd, made.memory)

    def fd(self, id: int, *, writable: bool) -> int:
        """A descriptor of it, ours; RestoreError when there is no such segment."""
        if id not in self._made and (id < FIRST_ID or id >= FIRST_HANDED):
            return self._elsewhere(id)
        made = self._made.get(id)
        if made is None:
            raise RestoreError(f"segment {id}: was not made")
        return made.fd if writable else made.read_fd

    def settle(self) -> None:
        """All content has landed and every task has what it maps: owners, modes, sizes, seals, removal. Idempotent."""
        for made in self._made.values():
            try:
                if not made.settled:
                    _settle(made)
            except OSError as error:
                raise RestoreError(f"{made.spec.name}: {error.strerror}") from error
            made.settled = True

    def abandon(self) -> None:
        """The restore failed: remove what would stay in the host. Idempotent."""
        for made in self._made.values():
            if made.own_sysv and made.spec.sysv is not None and not self.own_ipc:
                made.own_sysv = False
                _remove(made.spec.sysv.desc.id)
        self._leftovers.clear()

    def commit(self) -> None:
        """The tasks are about to run: all of it is theirs."""
        self._leftovers.clear()

    def close(self) -> None:
        """Let go of all; what tasks have lives on there. Idempotent."""
        for made in self._made.values():
            _let_go(made)
        self._made.clear()


def _refuse_taken(specs: Iterable[SegmentSpec]) -> None:
    wanted = [spec.sysv.desc for spec in specs if spec.sysv is not None]
    if wanted:
        sweep()
    here = ProcReader().sysv_segments() if wanted else ()
    if blockers := [found for desc in wanted if (found := refuse_taken(SysvNeed(desc.key, desc.id), here))]:
        raise Refused(blockers)


def _make(spec: SegmentSpec) -> _Made:
    match spec.kind:
        case SegmentKind.ANONYMOUS:
            fd = _make_anonymous(spec)
        case SegmentKind.MEMFD:
            fd = _make_memfd(spec)
        case SegmentKind.SYSV:
            return _make_sysv(spec)
        case SegmentKind.FILE:
            raise ValueError("files are made elsewhere")
        case _:
            assert_never(spec.kind)
    return _Made(spec, fd, _reopened(fd))


def _reopened(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _make_anonymous(spec: SegmentSpec) -> int:
    """What mmap(MAP_SHARED | MAP_ANONYMOUS) makes, so that it looks the same in /proc/PID/maps."""
    huge = size_flags(spec.page_size)
    kind = MAP_HUGETLB | huge if huge else MAP_NORESERVE
    memory = mmap.mmap(-1, spec.mapped_size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | kind)
    try:
        view = memoryview(memory)
        address = address_of(view)
        view.release()
        return open_mapping(address, os.O_RDWR)
    finally:
        memory.close()


def _make_memfd(spec: SegmentSpec) -> int:
    assert spec.memfd is not None
    sealing = 0 if spec.memfd.seals == F_SEAL_SEAL else MFD_ALLOW_SEALING
    huge = size_flags(spec.page_size)
    fd = os.memfd_create(spec.memfd.name, MFD_CLOEXEC | sealing | (MFD_HUGETLB | huge if huge else 0))
    os.ftruncate(fd, spec.size)
    return fd


def _make_sysv(spec: SegmentSpec) -> _Made:
    assert spec.sysv is not None
    desc = spec.sysv.desc
    huge = size_flags(spec.page_size)
    kind = IPC_CREAT | IPC_EXCL | (SHM_HUGETLB | huge if huge else 0)
    _choose_next_id(desc.id)
    try:
        id = syscall("shmget", desc.key, spec.size, kind | (desc.mode & PERMISSIONS))
    except OSError:
        _choose_next_id(-1)
        raise
    try:
        if id != desc.id:
            raise OSError(errno.EEXIST, f"id {desc.id} is taken")
        address = syscall("shmat", id, 0, 0)
        try:
            fd = open_mapping(address, os.O_RDWR)
        finally:
            if not (goes := goes_with_last()):  # else the last task that has it removes it while we have it
                syscall("shmdt", address)
        return _Made(spec, fd, _reopened(fd), address if goes else 0, own_sysv=True)
    except BaseException:
        _remove(id)
        raise


def _remove(id: int) -> None:
    """Whether it is there still or not."""
    try:
        syscall("shmctl", id, IPC_RMID, 0)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EIDRM):
            raise


def _choose_next_id(id: int) -> None:
    """Of the next segment that anybody makes; -1: as the kernel likes."""
    with open(NEXT_ID, "w", encoding="ascii") as file:
        file.write(str(id))


def _settle(made: _Made) -> None:
    spec = made.spec
    _unmap(made)  # nobody seals against writing what is mapped for it
    if spec.memfd is not None:
        os.ftruncate(made.fd, spec.size)
        os.fchown(made.fd, spec.memfd.uid, spec.memfd.gid)
        if spec.memfd.HasField("mode"):
            os.fchmod(made.fd, stat.S_IMODE(spec.memfd.mode))
        if missing := spec.memfd.seals & ~fcntl.fcntl(made.fd, F_GET_SEALS):
            fcntl.fcntl(made.fd, F_ADD_SEALS, missing)
    if spec.sysv is not None:
        _settle_sysv(made)


def _settle_sysv(made: _Made) -> None:
    assert made.spec.sysv is not None
    desc = made.spec.sysv.desc
    status = bytearray(SHMID_DS_SIZE)
    syscall("shmctl", desc.id, IPC_STAT, address_of(status))
    status[4:12] = desc.uid.to_bytes(4, "little") + desc.gid.to_bytes(4, "little")
    status[20:22] = (desc.mode & PERMISSIONS).to_bytes(2, "little")
    syscall("shmctl", desc.id, IPC_SET, address_of(status))
    if desc.mode & SHM_LOCKED:
        syscall("shmctl", desc.id, SHM_LOCK, 0)
    if desc.mode & SHM_DEST:  # it goes with the last task that has it
        syscall("shmctl", desc.id, IPC_RMID, 0)
        made.own_sysv = False


def _map(made: _Made) -> None:
    """Huge pages take no write(2): what lands there goes through a mapping, which reserves them all."""
    if made.memory is None or len(made.memory) != made.spec.mapped_size:
        _unmap(made)
        made.memory = mmap.mmap(made.fd, made.spec.mapped_size)


def _unmap(made: _Made) -> None:
    memory, made.memory = made.memory, None
    if memory is not None:
        memory.close()


def _let_go(made: _Made) -> None:
    made.memory = None  # and not unmapped: somebody may be landing there
    if made.attached:
        syscall("shmdt", made.attached)
        made.attached = 0
    for fd in (made.fd, made.read_fd):
        if fd >= 0:
            os.close(fd)
    made.fd = made.read_fd = -1


def _give_up(made: _Made) -> None:
    """The target has none of it any more."""
    if made.own_sysv and made.spec.sysv is not None:
        _remove(made.spec.sysv.desc.id)
    _let_go(made)
