"""What preflight finds out: the target's needs and a host's offers. Plain records, made there and judged elsewhere."""

import stat
from dataclasses import dataclass
from typing import Final, NamedTuple

from core.kernel.posix_mqueue import QueueNeed
from core.kernel.xsave import Layout
from core.options import NO_CHOICES, CpuCheck, DumpOptions, FileChoices, PidMode, TcpChoice, TrackChoice
from core.proc.sysvipc import SysvNeed

ASSUMED_SHARED: Final = "assumed"  # filesystem_id of a file that the user says is the same over there


@dataclass(frozen=True, slots=True)
class PreflightOptions:
    """What the user chose. `assume_shared`: paths below which both hosts have the same files."""

    tcp: TcpChoice = "refuse"
    shell_job: bool = False
    pid_mode: PidMode = "keep"
    assume_shared: tuple[str, ...] = ()
    action_scripts: tuple[str, ...] = ()
    files: FileChoices = NO_CHOICES
    track: TrackChoice | None = None

    @property
    def of_dump(self) -> DumpOptions:
        """What of it a dump is told too."""
        return DumpOptions(tcp=self.tcp, shell_job=self.shell_job, files=self.files)


@dataclass(frozen=True, slots=True)
class HostRecord:
    """One host: names as in Features, sizes in bytes, masks as in /proc/PID/status; limits are (number, soft, hard)."""

    hostname: str = ""
    kernel: str = ""
    boot_id: str = ""
    machine_id: str = ""
    xfeatures: int = 0
    xsave_layout: Layout = ()
    cpu_flags: tuple[str, ...] = ()
    memory_available_bytes: int = 0
    pid_max: int = 0
    user_id: int = 0
    capabilities: int = 0
    capability_bounding: int = 0
    seccomp: int = 0
    no_new_privs: bool = False
    cgroup2_mount: str = ""
    features: tuple[str, ...] = ()
    monotonic_ns: int = 0
    vdso: str = ""  # core.vdso.layout's fingerprint of the kernel's vDSO
    limits: tuple[tuple[int, int, int], ...] = ()
    huge_pages: tuple[tuple[int, int], ...] = ()  # (bytes of one, how many are free)
    pid_namespace: int = 0  # inode of the one that counts so; 0: not known

    def is_same(self, other: "HostRecord") -> bool:
        """One kernel and one PID namespace: containers of one machine are hosts of their own."""
        known = bool(self.boot_id and self.pid_namespace)
        return known and (self.boot_id, self.pid_namespace) == (other.boot_id, other.pid_namespace)

    @property
    def has_freezer(self) -> bool:
        """A cgroup of ours below our own can be frozen."""
        return "cgroup2_freezer" in self.features


@dataclass(frozen=True, slots=True)
class FileNeed:
    """A file that must be the same over there. Of a mapped one the build id or the hash decides, never the time.

    filesystem_id names the file system so that two hosts which have the same one say the same; "" when none can.
    """

    path: str
    mode: int
    size_bytes: int = 0
    mtime_ns: int = 0
    build_id: str = ""
    sha256: bytes = b""
    writable: bool = False
    mapped: bool = False
    locked: bool = False
    device_number: int = 0
    filesystem: str = ""
    filesystem_id: str = ""
    inode: int = 0
    used_as: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """How messages name it."""
        return f"{self.path} ({', '.join(self.used_as)})" if self.used_as else self.path

    def is_sent(self, boot_id: str) -> bool:
        """Whether `--sync-files missing` takes it along where it is missing: no devices and sockets; what is written to
        only from a file system of the host's own, whose boot this is."""
        if stat.S_ISREG(self.mode):
            return not self.writable or self.filesystem_id.startswith(f"{boot_id} ")
        return stat.S_ISDIR(self.mode) or stat.S_ISFIFO(self.mode)


@dataclass(frozen=True, slots=True)
class ListenNeed:
    """A bound socket: protocol tcp, tcp6, udp, udp6 with address and port, or unix with path.

    `foreign`: it may have an address that the host has not (IP_FREEBIND, IP_TRANSPARENT).
    """

    protocol: str
    address: str = ""
    port: int = 0
    path: str = ""
    v6only: bool = False
    used_as: str = ""
    foreign: bool = False


class OptionNeed(NamedTuple):
    """A socket option, and the kind of socket that has it. `interface`: the name of what `value` has the number of."""

    domain: int
    type: int
    protocol: int
    level: int
    option: int
    value: bytes
    interface: str = ""
    used_as: str = ""


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """What the target needs of a host. pids: every process and thread id that must be free, as the target sees them."""

    pids: tuple[int, ...] = ()
    name: str = ""
    files: tuple[FileNeed, ...] = ()
    listens: tuple[ListenNeed, ...] = ()
    memory_bytes: int = 0
    xfeatures: int = 0
    kernel_needs: tuple[str, ...] = ()
    user_ids: tuple[int, ...] = ()
    capabilities: int = 0
    capability_bounding: int = 0
    cgroup: str = ""
    host: HostRecord = HostRecord()
    pid_mode: PidMode = "keep"
    cpu_check: CpuCheck = "ins"
    max_fd: int = 0
    limits: tuple[tuple[int, int, int], ...] = ()
    sysv: tuple[SysvNeed, ...] = ()
    queues: tuple[QueueNeed, ...] = ()
    huge_pages: tuple[tuple[int, int], ...] = ()  # (bytes of one, how many)
    aio_requests: int = 0  # that its contexts of io_setup(2) are for
    aio_ring_bytes: int = 0  # of its smallest ring
    options: tuple[OptionNeed, ...] = ()
