"""System calls by name, with errors as OSError; typed wrappers for the few that several layers share.

Owns the syscall numbers of x86-64 that we use; knows nothing of what they are used for.
"""

import errno
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from core.native._kernel import ffi, lib

PIDFD_THREAD: Final = os.O_EXCL
SYSCALLS: Final[dict[str, int]] = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "ioctl": 16, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "pipe": 22, "select": 23,
    "sched_yield": 24, "mremap": 25, "msync": 26, "mincore": 27, "madvise": 28, "shmget": 29, "shmat": 30,
    "shmctl": 31, "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38,
    "getpid": 39, "sendfile": 40, "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "recvfrom": 45,
    "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "bind": 49, "listen": 50, "getsockname": 51, "getpeername": 52,
    "socketpair": 53, "setsockopt": 54, "getsockopt": 55, "clone": 56, "fork": 57, "vfork": 58, "execve": 59,
    "exit": 60, "wait4": 61, "kill": 62, "uname": 63, "semget": 64, "semop": 65, "semctl": 66, "shmdt": 67,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "fcntl": 72, "flock": 73, "fsync": 74, "fdatasync": 75,
    "truncate": 76, "ftruncate": 77, "getcwd": 79, "chdir": 80, "fchdir": 81, "rename": 82, "mkdir": 83, "rmdir": 84,
    "creat": 85, "link": 86, "unlink": 87, "symlink": 88, "readlink": 89, "chmod": 90, "fchmod": 91, "chown": 92,
    "fchown": 93, "umask": 95, "gettimeofday": 96, "getrlimit": 97, "ptrace": 101, "getuid": 102, "setuid": 105,
    "setgid": 106, "setpgid": 109, "getppid": 110, "setsid": 112, "setreuid": 113, "setregid": 114, "getgroups": 115,
    "setgroups": 116, "setresuid": 117, "getresuid": 118, "setresgid": 119, "getresgid": 120, "getpgid": 121,
    "setfsuid": 122, "setfsgid": 123, "getsid": 124, "capget": 125, "capset": 126, "rt_sigpending": 127,
    "rt_sigtimedwait": 128, "rt_sigqueueinfo": 129, "rt_sigsuspend": 130, "sigaltstack": 131, "personality": 135,
    "fstatfs": 138, "getpriority": 140, "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144,
    "sched_getscheduler": 145, "mlock": 149, "munlock": 150, "mlockall": 151, "modify_ldt": 154, "prctl": 157,
    "arch_prctl": 158, "setrlimit": 160, "chroot": 161, "sync": 162, "mount": 165, "umount2": 166, "sethostname": 170,
    "gettid": 186, "tkill": 200, "time": 201, "futex": 202, "sched_setaffinity": 203, "sched_getaffinity": 204,
    "io_setup": 206, "io_destroy": 207, "io_getevents": 208, "io_submit": 209,
    "epoll_create": 213, "set_tid_address": 218, "restart_syscall": 219,
    "semtimedop": 220, "timer_create": 222, "timer_settime": 223, "timer_gettime": 224, "timer_getoverrun": 225,
    "timer_delete": 226, "clock_settime": 227, "clock_gettime": 228,
    "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
    "epoll_wait": 232, "epoll_ctl": 233, "tgkill": 234, "set_mempolicy": 238, "get_mempolicy": 239, "mq_open": 240,
    "mq_unlink": 241, "mq_timedsend": 242, "mq_timedreceive": 243, "mq_notify": 244, "mq_getsetattr": 245,
    "waitid": 247,
    "keyctl": 250, "ioprio_set": 251, "ioprio_get": 252, "inotify_init": 253, "inotify_add_watch": 254,
    "inotify_rm_watch": 255, "openat": 257, "mkdirat": 258, "mknodat": 259, "fchownat": 260, "unlinkat": 263,
    "renameat": 264, "linkat": 265,
    "symlinkat": 266, "readlinkat": 267, "fchmodat": 268, "pselect6": 270, "ppoll": 271, "unshare": 272,
    "set_robust_list": 273, "get_robust_list": 274, "splice": 275, "tee": 276, "sync_file_range": 277,
    "vmsplice": 278, "utimensat": 280, "epoll_pwait": 281, "signalfd": 282, "timerfd_create": 283, "eventfd": 284,
    "fallocate": 285, "timerfd_settime": 286, "timerfd_gettime": 287, "accept4": 288, "signalfd4": 289,
    "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "inotify_init1": 294, "preadv": 295,
    "pwritev": 296, "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "recvmmsg": 299,
    "fanotify_init": 300, "fanotify_mark": 301, "prlimit64": 302,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "syncfs": 306, "setns": 308, "getcpu": 309,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "sched_setattr": 314, "sched_getattr": 315,
    "renameat2": 316, "seccomp": 317, "getrandom": 318, "memfd_create": 319, "bpf": 321, "execveat": 322,
    "userfaultfd": 323,
    "membarrier": 324, "mlock2": 325, "preadv2": 327, "pwritev2": 328, "pkey_mprotect": 329, "pkey_alloc": 330,
    "pkey_free": 331, "statx": 332, "rseq": 334, "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "pidfd_open": 434, "clone3": 435,
    "close_range": 436, "openat2": 437, "pidfd_getfd": 438, "faccessat2": 439, "process_madvise": 440,
    "epoll_pwait2": 441, "memfd_secret": 447, "mseal": 462,
}  # fmt: skip

# Room that the native part fills.
uncleared: Final = ffi.new_allocator(should_clear_after_alloc=False)


def syscall(name: str | int, *args: int) -> int:
    """Make one system call with integer arguments (addresses as integers); OSError with errno when it fails."""
    number = SYSCALLS[name] if isinstance(name, str) else name
    values = [argument & 0xFFFFFFFFFFFFFFFF for argument in args] + [0] * (6 - len(args))
    result = int(lib.mg_syscall(number, *values))
    if result < 0:
        raise OSError(-result, f"{name}: {os.strerror(-result)}")
    return result


def address_of(buffer: bytes | bytearray | memoryview) -> int:
    """Address of a buffer's first byte; the caller keeps the buffer alive."""
    return int(ffi.cast("unsigned long long", ffi.from_buffer(buffer)))


def pidfd_open(pid: int) -> int:
    """A pidfd of process `pid`, or of the thread of that id (Linux 6.9, else EINVAL); ProcessLookupError when there is
    neither. Source: pidfd_open(2)."""
    try:
        return syscall("pidfd_open", pid, 0)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # it is no first thread
            raise
    return syscall("pidfd_open", pid, PIDFD_THREAD)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Our close-on-exec duplicate of another process's descriptor. Source: pidfd_getfd(2)."""
    return syscall("pidfd_getfd", pidfd, fd, 0)


def kcmp(pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
    """0 equal, 1 less, 2 greater, 3 different without an order. Source: kcmp(2)."""
    return syscall("kcmp", pid1, pid2, kind, index1, index2)


class Shared(NamedTuple):
    """Of each process the place of the first that has the same object; places by the kernel's order; how many kcmp(2)
    calls it took."""

    places: list[int]
    order: list[int]
    comparisons: int


def find_shared(
    pids: Sequence[int], kind: int, fds: Sequence[int] | None = None, groups: Sequence[int] | None = None,
    likely: Sequence[int] | None = None,
) -> Shared:  # fmt: skip
    """Which processes share an object of kcmp(2)'s `kind`. `fds`: the descriptor of each, of open files. `groups`,
    ascending: those of different groups are known to differ. `likely`: their places in the order that is expected.

    In O(n log n) comparisons, n when they are in order. EOPNOTSUPP: this kernel does not tell an order.
    """
    count = len(pids)
    same, comparisons = ffi.new("int[]", count), ffi.new("long long *")
    order = ffi.new("int[]", list(range(count)) if likely is None else likely)
    numbers = ffi.NULL if fds is None else ffi.new("int[]", fds)
    parts = ffi.NULL if groups is None else ffi.new("int[]", groups)
    error = lib.mg_find_shared(ffi.new("int[]", pids), numbers, parts, count, kind, same, order, comparisons)
    if error < 0:
        raise OSError(-error, f"kcmp: {os.strerror(-error)}")
    return Shared(ffi.unpack(same, count), ffi.unpack(order, count), int(comparisons[0]))


def all_limits(pid: int) -> list[tuple[int, int]]:
    """Every resource limit of `pid`, in the kernel's order: (soft, hard). Source: prlimit(2)."""
    values = ffi.new("unsigned long long[]", 2 * lib.MG_LIMITS)
    if (error := lib.mg_read_limits(pid, values)) < 0:
        raise OSError(-error, f"limits of pid {pid}: {os.strerror(-error)}")
    found = ffi.unpack(values, len(values))
    return list(zip(found[::2], found[1::2], strict=True))


def prlimit(pid: int, resource: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """Read (and with `limits` set) a resource limit of `pid`: (soft, hard) before. Source: prlimit(2)."""
    old = bytearray(16)
    new = b"" if limits is None else b"".join((value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little") for value in limits)
    syscall("prlimit64", pid, resource, address_of(new) if new else 0, address_of(old))
    return int.from_bytes(old[:8], "little"), int.from_bytes(old[8:], "little")
