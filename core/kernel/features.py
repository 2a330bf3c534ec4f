"""What this kernel can do for us, asked by doing it in a throw-away way: no version checks, nothing of ours changed."""

import errno
import mmap
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Final

from core.errors import KernelLacks
from core.kernel import pagemap_scan, ptrace, userfaultfd
from core.kernel.calls import PIDFD_THREAD, address_of, kcmp, pidfd_getfd, pidfd_open, syscall
from core.kernel.cgroup_probe import probe_freezer
from core.kernel.hugetlb import HUGE_PAGE, MFD_HUGETLB, size_flags
from core.kernel.ipc_namespace import in_new_ipc_namespace
from core.kernel.xsave import xcr0
from core.native._kernel import ffi, lib
from core.proc.mountinfo import cgroup2_mount_point
from core.proc.reader import ProcReader

PAGE: Final = mmap.PAGESIZE
KCMP_FILE: Final = 0
PR_SET_PDEATHSIG: Final = 1
PR_SET_MM: Final = 35
PR_SET_MM_MAP_SIZE: Final = 15
MREMAP_MAYMOVE_FIXED: Final = 3
PROT_NONE, PROT_READ, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS = 0, 1, 3, 0x22
SOFT_DIRTY_BIT: Final = 55
LOW_END: Final = 1 << 47  # where addresses end with four levels of page tables


@dataclass(frozen=True, slots=True)
class Features:
    """Answers of one host. `xfeatures` is XCR0; masks as in /proc/PID/status; times are not kept."""

    pagemap_scan: bool
    uffd_wp_async: bool
    soft_dirty: bool
    clone3_set_tid: bool
    ptrace: bool
    ptrace_suspend_seccomp: bool
    kcmp: bool
    pidfd_getfd: bool
    pidfd_thread: bool  # a pidfd of a thread that is not the first
    mremap_many: bool  # one mremap moves several VMAs
    pr_set_mm_map: bool
    huge_pages: bool  # hugetlb, of 2 MiB
    ipc_namespace: bool  # one can be made
    aio: bool  # io_setup
    la57: bool  # five levels of page tables: addresses above the 47-bit line
    mseal: bool
    vdso_moves: bool  # the kernel does not seal what it maps by itself (CONFIG_MSEAL_SYSTEM_MAPPINGS)
    cgroup2_freezer: bool
    cgroup2_mount: str
    xfeatures: int
    cap_effective: int
    cap_bounding: int
    seccomp: int
    no_new_privs: bool
    user_id: int

    @property
    def is_root(self) -> bool:
        """User 0 here; capabilities tell what that is worth."""
        return self.user_id == 0

    @property
    def names(self) -> tuple[str, ...]:
        """The yes-or-no ones that are there, by name."""
        questions = [one.name for one in fields(self) if one.type in (bool, "bool") and one.name != "no_new_privs"]
        return tuple(name for name in questions if getattr(self, name))


def probe_features(reader: ProcReader | None = None) -> Features:
    """Ask everything; some 30 ms. Makes and removes a few children, a cgroup below ours, mappings of its own."""
    reader = reader or ProcReader()
    status = reader.status(os.getpid())
    mount = cgroup2_mount_point(reader.mountinfo()) or ""
    xfeatures = xcr0()
    return Features(
        pagemap_scan=_works(probe_pagemap_scan), uffd_wp_async=_works(probe_uffd_wp_async),
        soft_dirty=_works(probe_soft_dirty), clone3_set_tid=_works(probe_set_tid),
        ptrace=_works(lambda: probe_ptrace(0)),
        ptrace_suspend_seccomp=_works(lambda: probe_ptrace(ptrace.O_SUSPEND_SECCOMP)), kcmp=_works(probe_kcmp),
        pidfd_getfd=_works(probe_pidfd_getfd), pidfd_thread=_works(probe_pidfd_thread),
        mremap_many=_works(probe_mremap_many), pr_set_mm_map=_works(probe_set_mm_map),
        huge_pages=_works(probe_huge_pages), ipc_namespace=_works(probe_ipc_namespace), aio=probe_aio(),
        la57=_works(probe_la57), mseal=_works(probe_mseal),
        vdso_moves=_works(lambda: probe_vdso(reader)),
        cgroup2_freezer=bool(mount) and _works(lambda: _probe_cgroup(reader, mount)), cgroup2_mount=mount,
        xfeatures=xfeatures, cap_effective=status.cap_eff,
        cap_bounding=status.cap_bnd, seccomp=status.seccomp or 0, no_new_privs=bool(status.no_new_privs),
        user_id=status.uids[1],
    )  # fmt: skip


def _works(probe: Callable[[], bool]) -> bool:
    try:
        return probe()
    except (KernelLacks, OSError):
        return False


@contextmanager
def _child(act: Callable[[], None] = signal.pause) -> Iterator[int]:
    """A child that does `act`; killed and reaped at the end if it has not ended by itself."""
    pid = os.fork()
    if pid == 0:
        try:
            syscall("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
            act()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _answer_of_child(question: Callable[[], bool]) -> bool:
    """True when `question` is true in a child: for what would change our own state."""
    pid = os.fork()
    if pid == 0:
        answer = False
        try:
            answer = question()
        finally:
            os._exit(0 if answer else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def probe_pagemap_scan() -> bool:
    """The ioctl answers on our own pagemap."""
    pagemap = pagemap_scan.open_pagemap(os.getpid())
    try:
        return pagemap_scan.probe_categories(pagemap) is not None
    finally:
        os.close(pagemap)


def probe_uffd_wp_async() -> bool:
    """A userfaultfd of our own shakes hands on WP_ASYNC. That it sees stores is proven by core.memory.dirty."""
    uffd = userfaultfd.open_own()
    try:
        userfaultfd.enable_async_tracking(uffd)
        return True
    finally:
        os.close(uffd)


def probe_soft_dirty() -> bool:
    """In a child: clear the bits, write one page of two, look."""
    return _answer_of_child(_sees_soft_dirty)


def _sees_soft_dirty() -> bool:
    memory = mmap.mmap(-1, 2 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[0] = memory[PAGE] = 1
    with open("/proc/self/clear_refs", "wb", buffering=0) as file:
        file.write(b"4")
    memory[0] = 2
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        words = struct.unpack("<2Q", os.pread(file.fileno(), 16, address_of(memoryview(memory)) // PAGE * 8))
    return [word >> SOFT_DIRTY_BIT & 1 for word in words] == [1, 0]


def probe_set_tid() -> bool:
    """A child with a PID of our choice: that of one that has just ended."""
    with _child() as pid:
        wanted = pid
    exe_fd = os.open("/proc/self/exe", os.O_PATH | os.O_CLOEXEC)
    try:
        made = int(lib.mg_spawn(exe_fd, ffi.new("int[]", [wanted]), 1, -1, -1, 0))
    finally:
        os.close(exe_fd)
    if made < 0:
        return False
    os.kill(made, signal.SIGKILL)
    os.waitpid(made, 0)
    return made == wanted


def probe_ptrace(options: int) -> bool:
    """Seize and stop a child with these options."""
    with _child() as pid:
        stopped = ptrace.stop_threads([pid], options)[pid] == 0
        if stopped:
            ptrace.detach([pid])
        return stopped


def probe_kcmp() -> bool:
    """A descriptor is the same file as itself."""
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        return kcmp(os.getpid(), os.getpid(), KCMP_FILE, fd, fd) == 0
    finally:
        os.close(fd)


def probe_pidfd_getfd() -> bool:
    """A descriptor of our own by way of our own pidfd."""
    pidfd = pidfd_open(os.getpid())
    try:
        os.close(pidfd_getfd(pidfd, pidfd))
        return True
    finally:
        os.close(pidfd)


def probe_pidfd_thread() -> bool:
    """The kernel knows the flag that asks for one."""
    os.close(syscall("pidfd_open", os.getpid(), PIDFD_THREAD))
    return True


def probe_mremap_many() -> bool:
    """Three neighbours of different protection moved by one call."""
    size = 3 * PAGE
    old = syscall("mmap", 0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
    new = syscall("mmap", 0, size, PROT_NONE, MAP_PRIVATE_ANONYMOUS, -1, 0)
    try:
        syscall("mprotect", old + PAGE, PAGE, PROT_READ)
        return syscall("mremap", old, size, size, MREMAP_MAYMOVE_FIXED, new) == new
    except OSError:
        syscall("munmap", old, size)  # after success somebody else of ours may have mapped there
        raise
    finally:
        syscall("munmap", new, size)


def probe_huge_pages() -> bool:
    """A file of such pages can be made; whether there are any is another question."""
    os.close(os.memfd_create("migrate", MFD_HUGETLB | size_flags(HUGE_PAGE)))
    return True


def probe_ipc_namespace() -> bool:
    """This thread may be in one of its own."""
    with in_new_ipc_namespace():
        return True


def probe_aio() -> bool:
    """A context for no request at all is an error, but not that there is no such call."""
    try:
        syscall("io_setup", 0, address_of(bytearray(8)))
    except OSError as error:
        return error.errno == errno.EINVAL
    return True


def probe_la57() -> bool:
    """A page above the line, if somebody asks for it there; with four levels of page tables it comes elsewhere."""
    wanted = LOW_END << 4
    address = syscall("mmap", wanted, PAGE, PROT_NONE, MAP_PRIVATE_ANONYMOUS, -1, 0)
    syscall("munmap", address, PAGE)
    return address == wanted


def probe_mseal() -> bool:
    """Nothing at all can be sealed, where there is such a call."""
    return syscall("mseal", 0, 0, 0) == 0


def probe_vdso(reader: ProcReader) -> bool:
    """Ours could be moved: it is not sealed."""
    return not any(one.vma.name == "[vdso]" and "sl" in one.flags for one in reader.smaps(os.getpid()))


def probe_set_mm_map() -> bool:
    """The kernel tells the size of struct prctl_mm_map when it has it at all."""
    size = bytearray(4)
    syscall("prctl", PR_SET_MM, PR_SET_MM_MAP_SIZE, address_of(size), 0, 0)
    return int.from_bytes(size, "little") > 0


def _probe_cgroup(reader: ProcReader, mount: str) -> bool:
    with _child() as pid:
        return probe_freezer(reader, mount, pid)
