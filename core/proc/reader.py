"""The only opener of /proc: reads a file of a process and hands it to its parser.

A process (or thread) that is gone is ProcessLookupError; a file that this kernel lacks stays FileNotFoundError.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.errors import CollectError
from core.proc import bulk, sysvipc
from core.proc.auxv import parse_auxv
from core.proc.bulk import What
from core.proc.fdinfo import FdInfo, parse_fdinfo
from core.proc.limits import Limit, parse_limits
from core.proc.maps import SmapsVma, Vma, parse_between, parse_maps, parse_named, parse_smaps
from core.proc.mountinfo import Mount, parse_mountinfo
from core.proc.sockets import InetSocket, UnixSocket, parse_inet, parse_inodes, parse_unix
from core.proc.stat import Stat, parse_stat
from core.proc.status import Status, parse_status
from core.proc.statuses import Statuses
from core.proc.text import printable
from core.proc.timers import PosixTimer, parse_timers

CHUNK = 1 << 16
INET_PROTOCOLS = ("tcp", "tcp6", "udp", "udp6")


@dataclass(frozen=True, slots=True)
class CgroupPath:
    """One line of /proc/PID/cgroup: `controllers` is empty for v2."""

    hierarchy: int
    controllers: tuple[str, ...]
    path: str


def content_of(found: bytes | OSError) -> bytes:
    """What was read in bulk, or its error raised."""
    if isinstance(found, OSError):
        raise found
    return found


class ProcReader:
    """Reads /proc at `root`. Holds no state: a value is what the kernel said at that moment."""

    def __init__(self, root: str = "/proc") -> None:
        self._proc = root

    @property
    def proc(self) -> str:
        """Where /proc is."""
        return self._proc

    def content(self, pid: int | str, name: str) -> bytes:
        """Bytes of /proc/PID/NAME."""
        path = f"{self._proc}/{pid}/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._explained(error, pid, name) from None
        try:
            pieces = []
            while piece := os.read(fd, CHUNK):
                pieces.append(piece)
            return b"".join(pieces)
        except OSError as error:
            raise self._explained(error, pid, name) from None
        finally:
            os.close(fd)

    def text(self, pid: int | str, name: str) -> str:
        """Text of /proc/PID/NAME; bytes that are not UTF-8 come as surrogates, as in os.fsdecode."""
        return self.content(pid, name).decode("utf-8", "surrogateescape")

    def contents(self, files: Sequence[tuple[int, str]]) -> list[bytes | OSError]:
        """Bytes of every /proc/PID/NAME, in one go; the error in place of one that cannot be read."""
        return self._all(files, What.CONTENT)

    def links(self, files: Sequence[tuple[int, str]]) -> list[bytes | OSError]:
        """The same for what symbolic links say."""
        return self._all(files, What.LINK)

    def contents_of(self, pids: Sequence[int], names: Sequence[str]) -> list[list[bytes | OSError]]:
        """contents() of these files of every process, by process."""
        return self._of_each(pids, names, What.CONTENT)

    def links_of(self, pids: Sequence[int], names: Sequence[str]) -> list[list[bytes | OSError]]:
        """links() in the same way."""
        return self._of_each(pids, names, What.LINK)

    def _of_each(self, pids: Sequence[int], names: Sequence[str], what: What) -> list[list[bytes | OSError]]:
        found, many = bulk.read_of_each(self._proc, pids, names, what), len(names)
        return [
            [
                one if isinstance(one, bytes) else self._explained(OSError(one, os.strerror(one)), pid, name)
                for name, one in zip(names, found[index * many : (index + 1) * many], strict=True)
            ]
            for index, pid in enumerate(pids)
        ]

    def numbers(self, folders: Sequence[tuple[int, str]]) -> list[list[int] | OSError]:
        """The numbers that each /proc/PID/NAME (task, fd) holds, ascending, in one go; or the error."""
        found = self._all(folders, What.NAMES)
        return [one if isinstance(one, OSError) else sorted(map(int, one.split(b"\0")[:-1])) for one in found]

    def _all(self, files: Sequence[tuple[int, str]], what: What) -> list[bytes | OSError]:
        found = bulk.read_all([f"{self._proc}/{pid}/{name}" for pid, name in files], what)
        return [
            one if isinstance(one, bytes) else self._explained(OSError(one, os.strerror(one)), pid, name)
            for (pid, name), one in zip(files, found, strict=True)
        ]

    def brief_statuses(self, threads: Mapping[int, Sequence[int]]) -> dict[int, Statuses]:
        """What matters of the status of these threads, by process and tid."""
        found = iter(self.contents([(pid, f"task/{tid}/status") for pid, tids in threads.items() for tid in tids]))
        return {
            pid: Statuses({tid: content_of(text) for tid, text in zip(tids, found, strict=False)})
            for pid, tids in threads.items()
        }

    def _explained(self, error: OSError, pid: int | str, name: str) -> OSError:
        gone = error.errno == errno.ESRCH or (error.errno == errno.ENOENT and not os.path.exists(f"{self._proc}/{pid}"))
        task, slash, _ = name.partition("/") if not name.startswith("task/") else name[5:].partition("/")
        if name.startswith("task/") and slash and error.errno == errno.ENOENT:
            gone = gone or not os.path.exists(f"{self._proc}/{pid}/task/{task}")
        if gone:
            return ProcessLookupError(errno.ESRCH, f"pid {pid}: no such process")
        return type(error)(error.errno, os.strerror(error.errno or 0), f"{self._proc}/{pid}/{name}")

    def _file(self, pid: int | str, name: str) -> str:
        return f"{self._proc}/{pid}/{name}"

    def _link(self, pid: int, name: str) -> str:
        try:
            return os.readlink(f"{self._proc}/{pid}/{name}")
        except OSError as error:
            raise self._explained(error, pid, name) from None

    def _numbers(self, pid: int, name: str) -> list[int]:
        try:
            return sorted(int(entry) for entry in os.listdir(f"{self._proc}/{pid}/{name}"))
        except OSError as error:
            raise self._explained(error, pid, name) from None

    def path(self, pid: int | str, name: str) -> str:
        """Name of a file of /proc/PID, for system calls that want one (root, fd/N, map_files/…)."""
        return self._file(pid, name)

    def exists(self, pid: int) -> bool:
        """True when there is such a process or thread."""
        return os.path.exists(f"{self._proc}/{pid}")

    def pids(self) -> list[int]:
        """Thread group leaders that this /proc shows."""
        return sorted(int(entry) for entry in os.listdir(self._proc) if entry.isdecimal())

    def maps(self, pid: int) -> tuple[Vma, ...]:
        """VMAs, ascending."""
        return parse_maps(self.text(pid, "maps"), self._file(pid, "maps"))

    def maps_between(self, pid: int, start: int, end: int) -> tuple[Vma, ...]:
        """VMAs that have something in [start, end), ascending."""
        return parse_between(self.text(pid, "maps"), start, end, self._file(pid, "maps"))

    def maps_named(self, pid: int, name: str) -> tuple[Vma, ...]:
        """Its [vdso] or [stack] alone, or nothing."""
        return parse_named(self.text(pid, "maps"), name, self._file(pid, "maps"))

    def smaps(self, pid: int) -> tuple[SmapsVma, ...]:
        """VMAs with flags; ten times dearer than maps."""
        return parse_smaps(self.text(pid, "smaps"), self._file(pid, "smaps"))

    def shared_out_bytes(self, pid: int) -> int | None:
        """Anonymous memory, a page divided by how many have it (Pss_Anon); None where the kernel does not tell."""
        try:
            lines = self.text(pid, "smaps_rollup").split("\n")
        except FileNotFoundError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:")), None)

    def status(self, pid: int, tid: int | None = None) -> Status:
        """Status of the process, or of its thread `tid`."""
        name = "status" if tid is None else f"task/{tid}/status"
        return parse_status(self.text(pid, name), self._file(pid, name))

    def stat(self, pid: int, tid: int | None = None) -> Stat:
        """Stat of the process, or of its thread `tid`."""
        name = "stat" if tid is None else f"task/{tid}/stat"
        return parse_stat(self.text(pid, name), self._file(pid, name))

    def tids(self, pid: int) -> list[int]:
        """Threads, ascending."""
        return self._numbers(pid, "task")

    def children(self, pid: int) -> list[int]:
        """Children of every thread, ascending. Without CONFIG_PROC_CHILDREN every process is asked for its parent."""
        while True:
            tids = self.tids(pid)  # ProcessLookupError: it has ended
            try:
                words = [self.text(pid, f"task/{tid}/children").split() for tid in tids]
                return sorted(int(child) for line in words for child in line)
            except FileNotFoundError:
                return [child for child in self.pids() if self._parent(child) == pid]
            except ProcessLookupError:  # a thread has ended, and what it had made is another one's now
                continue

    def _parent(self, pid: int) -> int:
        try:
            return self.stat(pid).ppid
        except ProcessLookupError:
            return 0

    def fds(self, pid: int) -> list[int]:
        """Open descriptors, ascending."""
        return self._numbers(pid, "fd")

    def fd_link(self, pid: int, fd: int) -> str:
        """What the descriptor's link says: a path, pipe:[…], anon_inode:[…]. FileNotFoundError when it is closed."""
        return self._link(pid, f"fd/{fd}")

    def fd_stat(self, pid: int, fd: int) -> os.stat_result:
        """stat(2) of the open file itself, deleted or not."""
        try:
            return os.stat(f"{self._proc}/{pid}/fd/{fd}")
        except OSError as error:
            raise self._explained(error, pid, f"fd/{fd}") from None

    def fdinfo(self, pid: int, fd: int) -> FdInfo:
        """Position, flags and kind's own facts of a descriptor."""
        return parse_fdinfo(self.text(pid, f"fdinfo/{fd}"), self._file(pid, f"fdinfo/{fd}"))

    def mountinfo(self, pid: int | str = "self") -> tuple[Mount, ...]:
        """Mounts of its mount namespace."""
        return parse_mountinfo(self.text(pid, "mountinfo"), self._file(pid, "mountinfo"))

    def auxv(self, pid: int) -> tuple[int, ...]:
        """Auxiliary vector as 64-bit words, AT_NULL pair included."""
        return parse_auxv(self.content(pid, "auxv"), self._file(pid, "auxv"))

    def limits(self, pid: int) -> tuple[Limit, ...]:
        """Resource limits by number."""
        return parse_limits(self.text(pid, "limits"), self._file(pid, "limits"))

    def timers(self, pid: int) -> tuple[PosixTimer, ...]:
        """POSIX timers; FileNotFoundError on a kernel without CONFIG_CHECKPOINT_RESTORE."""
        return parse_timers(self.text(pid, "timers"), self._file(pid, "timers"))

    def exe(self, pid: int) -> str:
        """Path of the executable, perhaps with " (deleted)"; FileNotFoundError for kernel threads and zombies."""
        return self._link(pid, "exe")

    def cwd(self, pid: int) -> str:
        """Working directory."""
        return self._link(pid, "cwd")

    def root(self, pid: int) -> str:
        """Root directory, as seen from ours."""
        return self._link(pid, "root")

    def namespaces(self, pid: int) -> dict[str, int]:
        """Inode of each namespace, by the name of its link (pid, net, mnt, time_for_children, …).

        0 for a pid_for_children that has no first process yet.
        """
        try:
            names = os.listdir(f"{self._proc}/{pid}/ns")
        except OSError as error:
            raise self._explained(error, pid, "ns") from None
        return {name: self.namespace(pid, name) for name in sorted(names)}

    def namespace(self, pid: int, name: str) -> int:
        """Inode of one of them; 0 for one that there is not."""
        try:
            return int(self._link(pid, f"ns/{name}").partition("[")[2].rstrip("]"))
        except FileNotFoundError:
            return 0

    def cgroups(self, pid: int) -> tuple[CgroupPath, ...]:
        """Its cgroup in every hierarchy."""
        found = []
        for line in self.text(pid, "cgroup").removesuffix("\n").split("\n"):
            number, controllers, path = line.split(":", 2)
            found.append(CgroupPath(int(number), tuple(filter(None, controllers.split(","))), path))
        return tuple(found)

    def cgroup2(self, pid: int) -> str | None:
        """Path of its v2 cgroup below the mount point; None without v2."""
        return next((entry.path for entry in self.cgroups(pid) if entry.hierarchy == 0), None)

    def cmdline(self, pid: int) -> list[str]:
        """Arguments; empty for kernel threads and zombies."""
        content = self.text(pid, "cmdline")
        return content.removesuffix("\0").split("\0") if content else []

    def environ(self, pid: int) -> dict[str, str]:
        """Environment as it was at exec."""
        lines = self.text(pid, "environ").split("\0")
        return dict((name, value) for name, equals, value in map(lambda line: line.partition("="), lines) if equals)

    def comm(self, pid: int, tid: int | None = None) -> str:
        """Name of the process or thread, up to 15 bytes."""
        name = "comm" if tid is None else f"task/{tid}/comm"
        return printable(self.text(pid, name).removesuffix("\n"))

    def _number(self, pid: int, name: str, base: int = 10) -> int:
        text = self.text(pid, name).strip()
        try:
            return int(text, base)
        except ValueError:
            raise CollectError(self._file(pid, name), f"is not a number: {text!r}") from None

    def oom_score_adj(self, pid: int) -> int:
        """-1000 … 1000."""
        return self._number(pid, "oom_score_adj")

    def coredump_filter(self, pid: int) -> int:
        """Bits of core(5)."""
        return self._number(pid, "coredump_filter", 16)

    def loginuid(self, pid: int) -> int | None:
        """Audit's login user; None on a kernel without audit."""
        try:
            return self._number(pid, "loginuid")
        except FileNotFoundError:
            return None

    def personality(self, pid: int) -> int:
        """personality(2) bits."""
        return self._number(pid, "personality", 16)

    def syscall(self, pid: int, tid: int | None = None) -> str:
        """The syscall it is blocked in, as written: "running", or number, arguments, stack pointer, pc."""
        return self.text(pid, "syscall" if tid is None else f"task/{tid}/syscall").strip()

    def inet_sockets(self, pid: int | str = "self") -> dict[int, InetSocket]:
        """TCP and UDP sockets of its network namespace, by inode."""
        found: dict[int, InetSocket] = {}
        for protocol in INET_PROTOCOLS:
            name = f"net/{protocol}"
            try:
                sockets = parse_inet(self.text(pid, name), protocol, self._file(pid, name))
            except FileNotFoundError:
                continue  # a kernel without IPv6
            found.update((socket.inode, socket) for socket in sockets if socket.inode)
        return found

    def unix_sockets(self, pid: int | str = "self") -> dict[int, UnixSocket]:
        """UNIX sockets of its network namespace, by inode."""
        return {one.inode: one for one in parse_unix(self.text(pid, "net/unix"), self._file(pid, "net/unix"))}

    def socket_inodes(self, pid: int | str, table: str) -> frozenset[int]:
        """Inodes in net/netlink or net/packet; empty when this kernel has no such file."""
        try:
            return parse_inodes(self.text(pid, f"net/{table}"), "Inode", self._file(pid, f"net/{table}"))
        except FileNotFoundError:
            return frozenset()

    def boot_id(self) -> str:
        """Which boot of which host this is."""
        return self.text("sys", "kernel/random/boot_id").strip()

    def sysv_segments(self) -> tuple[sysvipc.SysvSegment, ...]:
        """System V shared memory of our IPC namespace; none on a kernel without it."""
        try:
            return sysvipc.parse_sysv_segments(self.text("sysvipc", "shm"), self._file("sysvipc", "shm"))
        except FileNotFoundError:
            return ()

    def message_queues(self) -> tuple[sysvipc.SysvQueue, ...]:
        """System V message queues of our IPC namespace; none on a kernel without them."""
        try:
            return sysvipc.parse_message_queues(self.text("sysvipc", "msg"), self._file("sysvipc", "msg"))
        except FileNotFoundError:
            return ()

    def semaphore_sets(self) -> tuple[sysvipc.SysvSet, ...]:
        """System V semaphore sets of our IPC namespace; none on a kernel without them."""
        try:
            return sysvipc.parse_semaphore_sets(self.text("sysvipc", "sem"), self._file("sysvipc", "sem"))
        except FileNotFoundError:
            return ()
