"""What this host has of the things a target needs: looks, decides nothing.

Changes nothing but that it binds to port 0 and makes message queues for a moment.
"""

import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from core.kernel.aio import free_requests, shortest_ring
from core.kernel.leftovers import sweep
from core.kernel.posix_mqueue import QueueNeed, probe_queues
from core.preflight.files import filesystem_id
from core.preflight.fingerprint import Fingerprints, read_build_id
from core.preflight.host import collect_host
from core.preflight.records import ASSUMED_SHARED, FileNeed, HostRecord, ListenNeed, OptionNeed, TargetRecord
from core.preflight.socket_options import probe_options
from core.proc.main_thread import main_threads
from core.proc.mountinfo import Mount, mount_of
from core.proc.reader import ProcReader
from core.proc.sockets import InetSocket
from core.proc.sysvipc import Named

TCP_LISTEN = 10


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that holds a port here; `holder` names whose it is, "" when nobody can tell."""

    socket: InetSocket
    holder: str = ""


@dataclass(frozen=True, slots=True)
class Destination:
    """A host as one target finds it. files: by path, None when absent; holders: who has a PID that is needed."""

    host: HostRecord
    files: Mapping[str, FileNeed | None] = field(default_factory=dict)
    holders: Mapping[int, str] = field(default_factory=dict)
    listeners: tuple[Listener, ...] = ()
    absent_addresses: frozenset[str] = frozenset()
    unix_in_use: frozenset[str] = frozenset()
    sysv: Mapping[str, Sequence[Named]] = field(default_factory=dict)  # by kind
    aio_free: int = 0  # requests that contexts of io_setup(2) can still be made for
    aio_shortest: int = 0  # bytes of the smallest ring there can be
    queues: tuple[tuple[QueueNeed, int], ...] = ()  # that cannot be made, and with which errno
    options: tuple[tuple[OptionNeed, int], ...] = ()  # that cannot be set


def look(target: TargetRecord, *, host: HostRecord | None = None, reader: ProcReader | None = None) -> Destination:
    """Look for everything `target` needs."""
    sweep()  # what a restore that was killed has left behind is in nobody's way
    reader = reader or ProcReader()
    host = host or collect_host(reader)
    unix_paths = [need.path for need in target.listens if need.protocol == "unix"]
    return Destination(
        host=host,
        files=_find_files(target.files, reader.mountinfo(), host.boot_id),
        holders={pid: holder for pid in target.pids if (holder := _holder(reader, pid))},
        listeners=_find_listeners(target.listens, reader),
        absent_addresses=frozenset(need.address for need in target.listens if not _has_address(need)),
        unix_in_use=_unix_in_use(unix_paths, reader),
        sysv=_find_sysv(reader) if target.sysv else {},
        aio_free=free_requests() if target.aio_requests else 0,
        aio_shortest=shortest_ring() if target.aio_requests else 0,
        queues=probe_queues(target.queues) if target.queues else (),
        options=probe_options(target.options),
    )


def _find_sysv(reader: ProcReader) -> dict[str, Sequence[Named]]:
    return {"shm": reader.sysv_segments(), "msg": reader.message_queues(), "sem": reader.semaphore_sets()}


def _holder(reader: ProcReader, pid: int) -> str:
    try:
        return reader.comm(pid)
    except OSError:
        return ""


def _find_files(needs: Iterable[FileNeed], mounts: tuple[Mount, ...], boot_id: str) -> dict[str, FileNeed | None]:
    found = {need.path: _find_file(need, mounts, boot_id) for need in needs}
    wanted = [need.path for need in needs if need.sha256 and _may_be_same(need, found[need.path])]
    for path, digest in Fingerprints().sha256(wanted).items():
        one = found[path]
        found[path] = None if one is None else replace(one, sha256=digest)
    return found


def _may_be_same(need: FileNeed, found: FileNeed | None) -> bool:
    """Only equal sizes are worth a hash, and not what is the same inode anyway."""
    return found is not None and found.size_bytes == need.size_bytes and not is_same_file(need, found)


def is_same_file(need: FileNeed, found: FileNeed) -> bool:
    """The same inode of the same file system, seen from both hosts.

    A file that nobody writes must also look unchanged: an inode number comes back for another file.
    """
    if not need.filesystem_id or (need.filesystem_id, need.inode) != (found.filesystem_id, found.inode):
        return False
    unchanged = (need.size_bytes, need.mtime_ns) == (found.size_bytes, found.mtime_ns)
    return unchanged or need.writable or not stat.S_ISREG(need.mode)


def _find_file(need: FileNeed, mounts: tuple[Mount, ...], boot_id: str) -> FileNeed | None:
    try:
        found = os.lstat(need.path) if stat.S_ISLNK(need.mode) else os.stat(need.path)
        build_id = read_build_id(need.path) if need.build_id and stat.S_ISREG(found.st_mode) else ""
    except OSError:
        return None
    mount = mount_of(mounts, os.path.realpath(need.path))
    same = [need.path] if need.filesystem_id == ASSUMED_SHARED else []
    return FileNeed(
        path=need.path, mode=found.st_mode, size_bytes=found.st_size if stat.S_ISREG(found.st_mode) else 0,
        mtime_ns=found.st_mtime_ns, build_id=build_id, device_number=found.st_rdev, inode=found.st_ino,
        filesystem=mount.filesystem if mount else "",
        filesystem_id=filesystem_id(need.path, found.st_dev, mount, same, boot_id),
    )  # fmt: skip


def _find_listeners(needs: Iterable[ListenNeed], reader: ProcReader) -> tuple[Listener, ...]:
    """Whoever holds one of the ports, whatever the address."""
    ports = {(need.protocol[:3], need.port) for need in needs if need.protocol != "unix"}
    if not ports:
        return ()
    holding = [
        one
        for one in reader.inet_sockets().values()
        if (one.protocol[:3], one.local[1]) in ports and (one.state == TCP_LISTEN or one.protocol.startswith("udp"))
    ]
    owners = _owners({one.inode for one in holding}, reader) if holding else {}
    return tuple(Listener(one, owners.get(one.inode, "")) for one in holding)


def _owners(inodes: set[int], reader: ProcReader) -> dict[int, str]:
    """inode → "name (pid N)" by looking at every process."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, str] = {}
    for pid in main_threads(reader):
        try:
            for fd in reader.fds(pid):
                inode = links.get(reader.fd_link(pid, fd))
                if inode is not None:
                    found.setdefault(inode, f"{reader.comm(pid)} (pid {pid})")
        except OSError:
            continue  # it ended, or is not ours to look at
    return found


def _has_address(need: ListenNeed) -> bool:
    """Asked by binding to it, without a port of our choice."""
    if need.protocol == "unix" or need.address in ("0.0.0.0", "::"):
        return True
    family = socket.AF_INET6 if ":" in need.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((need.address, 0))
        except OSError:
            return False
    return True


def _unix_in_use(paths: Iterable[str], reader: ProcReader) -> frozenset[str]:
    """Names that a live socket has, and paths where something else than a socket is."""
    bound = {one.path for one in reader.unix_sockets().values()}
    return frozenset(path for path in paths if (path in bound and _still_there(path)) or _is_no_socket(path))


def _still_there(path: str) -> bool:
    return path.startswith("@") or os.path.exists(path)


def _is_no_socket(path: str) -> bool:
    try:
        return not path.startswith("@") and not stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False
