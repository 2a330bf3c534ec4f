"""/proc/PID/mountinfo: the mounts of a mount namespace."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from core.proc.text import malformed, unescaped

NETWORK_FILESYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "ocfs2", "gfs2", "9p", "afs", "beegfs", "virtiofs"}
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: `root` is what of the file system is mounted at `mount_point`; device as (major, minor)."""

    mount_id: int
    parent_id: int
    device: tuple[int, int]
    root: str
    mount_point: str
    options: tuple[str, ...]
    propagation: tuple[str, ...]
    filesystem: str
    source: str
    super_options: tuple[str, ...]

    @property
    def is_network(self) -> bool:
        """True for file systems that several hosts can have mounted at once."""
        return self.filesystem in NETWORK_FILESYSTEMS or self.filesystem.startswith("fuse.")


def parse_mountinfo(text: str, file: str = "mountinfo") -> tuple[Mount, ...]:
    """Mounts in order: a later one hides an earlier at the same point. Source: proc_pid_mountinfo(5)."""
    return tuple(_parse_mount(line, file, number) for number, line in enumerate(text.split("\n"), 1) if line)


def _parse_mount(line: str, file: str, number: int) -> Mount:
    try:
        fields = line.split(" ")
        dash = fields.index("-", 6)
        major, _, minor = fields[2].partition(":")
        filesystem, source, super_options = fields[dash + 1 : dash + 4]
        return Mount(
            int(fields[0]), int(fields[1]), (int(major), int(minor)), unescaped(fields[3]), unescaped(fields[4]),
            tuple(fields[5].split(",")), tuple(fields[6:dash]), filesystem, unescaped(source),
            tuple(super_options.split(",")),
        )  # fmt: skip
    except (ValueError, IndexError):
        raise malformed(file, number, line) from None


def mount_of(mounts: Iterable[Mount], path: str) -> Mount | None:
    """The mount that absolute `path` is on; None when even / is not there."""
    best: Mount | None = None
    for mount in mounts:
        point = mount.mount_point.rstrip("/")
        inside = path == mount.mount_point or path.startswith(point + "/")
        if inside and (best is None or len(mount.mount_point) >= len(best.mount_point)):
            best = mount
    return best


def cgroup2_mount_point(mounts: Iterable[Mount]) -> str | None:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid host."""
    return next((mount.mount_point for mount in mounts if mount.filesystem == "cgroup2"), None)
