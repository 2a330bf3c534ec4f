"""Which files, devices and bound sockets the target needs to find over there."""

import os
import socket
import stat
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from core.errors import Blocker
from core.plan.chosen_options import IP_TRANSPARENT
from core.plan.ghost_names import last_name
from core.plan.socket_options import IP_FREEBIND, borrowed_socket
from core.preflight.fingerprint import Fingerprints
from core.preflight.records import ASSUMED_SHARED, FileNeed, ListenNeed, PreflightOptions
from core.proc.maps import SmapsVma
from core.proc.mountinfo import Mount, mount_of
from core.proc.process_files import whose
from core.proc.reader import ProcReader
from core.proc.sockets import InetSocket, UnixSocket
from core.proc.text import is_printable, printable
from core.resources import file_table, regular_file
from core.resources.context import OpenFile, looking_at
from core.resources.ghost_file import living_path

HASHED_AT_MOST: Final = 64 << 20  # bytes of a file that is only open for reading; beyond it size and time decide
TCP_LISTEN: Final = 10


@dataclass(slots=True)
class Use:
    """How one path is used, gathered from all its users."""

    used_as: list[str] = field(default_factory=list)
    writable: bool = False
    mapped: bool = False
    path_only: bool = False
    locked: bool = False
    mapped_to_write: bool = False  # shared: on a tmpfs it is carried
    holds: bool = False  # a directory in which something of the target is made over there


def refuse_names(uses: Mapping[str, Use]) -> list[Blocker]:
    """Paths that cannot be told to the other side. Pure."""
    reason, hint = "its path is not UTF-8, which images cannot hold", "rename it"
    return [
        Blocker("file-name", f"{printable(path)} ({', '.join(use.used_as)})", reason, hint)
        for path, use in uses.items()
        if not is_printable(path)
    ]


def collect_files(
    reader: ProcReader, pid: int, uses: dict[str, Use], options: PreflightOptions, boot_id: str, known: Fingerprints,
    own_pids: Container[int],
) -> tuple[FileNeed, ...]:  # fmt: skip
    """Every path the target will be given over there. Refused ones (deleted…) are left out: others name them.

    `known`: of the whole tree, whose processes have most in common; `own_pids`: of those, whose files of /proc come
    with them.
    """
    root = reader.path(pid, "root")
    mounts = reader.mountinfo(pid)
    for path in [path for path, use in uses.items() if use.mapped_to_write and _is_on_tmpfs(mount_of(mounts, path))]:
        del uses[path]
        note_folder(uses, path)
    needs = []
    for path, use in sorted(uses.items()):
        shows = whose(path)
        if not is_printable(path) or (shows is not None and shows.pid in own_pids):
            continue
        try:
            found = os.lstat(root + path) if use.path_only else os.stat(root + path)
        except OSError:
            if use.holds:
                needs.append(FileNeed(path, stat.S_IFDIR, used_as=tuple(use.used_as)))
            continue
        needs.append(_need(path, use, found, mount_of(mounts, path), options, boot_id))
    return _with_content(needs, root, known)


def _is_on_tmpfs(mount: Mount | None) -> bool:
    return mount is not None and mount.filesystem == "tmpfs"


def note_folder(uses: dict[str, Use], path: str) -> None:
    """`path` is made over there: its directory has to be there. Pure."""
    if folder := path.rpartition("/")[0]:
        use = uses.setdefault(folder, Use())
        use.holds = True
        use.used_as.append(f"{path} is made there")


def collect_scripts(options: PreflightOptions, boot_id: str) -> tuple[FileNeed, ...]:
    """The action scripts, which are called on both hosts."""
    use = Use(["action script"], mapped=True)
    needs = [_need(path, use, os.stat(path), None, options, boot_id) for path in options.action_scripts]
    return _with_content(needs, "", Fingerprints())


def collect_uses(reader: ProcReader, pid: int, smaps: Sequence[SmapsVma], files: Sequence[OpenFile]) -> dict[str, Use]:
    """Every path that the target has open, mapped, or as its executable or working directory."""
    uses: dict[str, Use] = {}
    root = reader.path(pid, "root")
    exe = uses.setdefault(reader.exe(pid), Use())
    exe.used_as.append("exe")
    exe.mapped = True
    uses.setdefault(reader.cwd(pid), Use()).used_as.append("cwd")
    for vma, flags, *_ in smaps:
        if not vma.path.startswith("/"):
            continue
        if vma.is_deleted:
            note_folder(uses, living_path(last_name(vma.path), root))
            continue
        use = uses.setdefault(vma.path, Use())
        use.mapped = True
        use.mapped_to_write |= vma.shared and (vma.writable or "mw" in flags)
        use.writable |= use.mapped_to_write
        if "mapped" not in use.used_as:
            use.used_as.append("mapped")
    for file in files:
        if regular_file.is_nameless(file):
            note_folder(uses, living_path(last_name(file.link), root))
        for path in file_table.watched(file):
            uses.setdefault(path, Use()).used_as.append(f"fd {file.fd} watches it")
        if file_table.is_found_by_path(file):
            use = uses.setdefault(file.link, Use())
            use.used_as.append(f"fd {file.fd}")
            use.locked |= bool(file.info.locks)
            use.path_only |= bool(file.flags & os.O_PATH)
            use.writable |= file.flags & os.O_ACCMODE != os.O_RDONLY
    return uses


def _need(
    path: str, use: Use, found: os.stat_result, mount: Mount | None, options: PreflightOptions, boot_id: str
) -> FileNeed:
    is_file = stat.S_ISREG(found.st_mode)
    return FileNeed(
        path=path, mode=found.st_mode, size_bytes=found.st_size if is_file else 0, mtime_ns=found.st_mtime_ns,
        writable=use.writable and is_file, mapped=use.mapped, locked=use.locked,
        device_number=found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0,
        filesystem=mount.filesystem if mount else "", inode=found.st_ino, used_as=tuple(use.used_as),
        filesystem_id=filesystem_id(path, found.st_dev, mount, options.assume_shared, boot_id),
    )  # fmt: skip


def filesystem_id(path: str, device: int, mount: Mount | None, assume_shared: Sequence[str], boot_id: str) -> str:
    """Words that two hosts share exactly when they have the same file system there. Pure."""
    if any(path == shared.rstrip("/") or path.startswith(shared.rstrip("/") + "/") for shared in assume_shared):
        return ASSUMED_SHARED
    if mount is not None and mount.is_network:
        return f"{mount.filesystem} {mount.source}"
    return f"{boot_id} {device}"  # the same kernel: hosts that are containers of one machine


def _with_content(needs: list[FileNeed], root: str, known: Fingerprints) -> tuple[FileNeed, ...]:
    """Build ids of mapped files, hashes of the rest that shall be the same."""
    with_ids = [replace(need, build_id=known.build_id(root + need.path)) if need.mapped else need for need in needs]
    hashes = known.sha256([root + need.path for need in with_ids if _is_hashed(need)])
    return tuple(replace(need, sha256=hashes.get(root + need.path, b"")) for need in with_ids)


def _is_hashed(need: FileNeed) -> bool:
    if not stat.S_ISREG(need.mode) or need.writable or need.build_id or need.filesystem_id == ASSUMED_SHARED:
        return False
    return need.mapped or need.size_bytes <= HASHED_AT_MOST


class SocketTables:
    """Sockets by inode. Each network namespace is read once: the kernel goes through all of its hash tables for that,
    which takes milliseconds."""

    def __init__(self, reader: ProcReader) -> None:
        self._reader = reader
        self._known: dict[int, tuple[dict[int, InetSocket], dict[int, UnixSocket]]] = {}

    def of(self, pid: int) -> tuple[dict[int, InetSocket], dict[int, UnixSocket]]:
        """Those in the network namespace of `pid`."""
        namespace = self._reader.namespace(pid, "net")
        if namespace not in self._known:
            self._known[namespace] = self._reader.inet_sockets(pid), self._reader.unix_sockets(pid)
        return self._known[namespace]


def collect_listens(
    reader: ProcReader, pid: int, files: Sequence[OpenFile], tables: SocketTables
) -> tuple[ListenNeed, ...]:
    """Listening TCP, bound UDP and bound UNIX sockets; `tables` is asked after `files` were opened."""
    sockets = [file for file in files if stat.S_ISSOCK(file.stat.st_mode)]
    if not sockets:
        return ()
    inet, unix = tables.of(pid)
    needs = []
    for file in sockets:
        used_as, inode = f"fd {file.fd}", file.stat.st_ino
        bound = inet.get(inode)
        if bound is not None and (bound.state == TCP_LISTEN or bound.protocol.startswith("udp")) and bound.local[1]:
            address, port = bound.local
            with looking_at(file):
                v6only, foreign = _read_choices(file.local_fd, is_six=bound.protocol.endswith("6"))
            needs.append(ListenNeed(bound.protocol, address, port, v6only=v6only, used_as=used_as, foreign=foreign))
        local = unix.get(inode)
        if local is not None and local.path and not local.is_connected:
            path = local.path if local.path.startswith(("/", "@")) else os.path.join(reader.cwd(pid), local.path)
            needs.append(ListenNeed("unix", path=printable(path), used_as=used_as))
    return tuple(dict.fromkeys(needs))


def _read_choices(fd: int, *, is_six: bool) -> tuple[bool, bool]:
    """Whether it is of IPv6 alone, and whether it may have an address that the host has not."""
    with borrowed_socket(fd) as live:
        v6only = is_six and bool(live.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        foreign = any(live.getsockopt(socket.IPPROTO_IP, option) for option in (IP_FREEBIND, IP_TRANSPARENT))
    return v6only, foreign
