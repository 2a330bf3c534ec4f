"""`--sync-files`: the files that the process has open or mapped and that the other host lacks go there before the move.

Both halves: `check` asks and sends, FileSink writes. A file appears whole or not at all, with owner, mode, extended
attributes and times; one that is there is replaced only by `--sync-files changed`.
"""

import asyncio
import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from core import FileNeed
from migrate.engine import Peer
from migrate.errors import SyncError
from migrate.pb import control_pb2 as pb

PIECE: Final = 1 << 20
SYNCED: Final = ("file-missing", "file-differs")  # what sending files mends


async def check(
    there: Peer, target: pb.TargetFacts, pid: int, choice: str, *, may_send: bool
) -> tuple[pb.CheckAnswer, frozenset[str]]:
    """What the destination says to `target` when it has files of process `pid` as `choice` allows, and which files it
    gets as the memory: those that are written to, and that it lacks.

    The others were sent, unless the process cannot move then: what would be sent is a notice, and no blocker.
    """
    answer = await there.ask(pb.Check(target=target), pb.CheckAnswer)
    lacking, carried = lacking_files(target.files, answer, choice), carried_files(target, answer, choice)
    twice = named_twice(target.files, carried)
    carried = [need for need in carried if need.path not in twice]
    mended = {_record(need).subject for need in (*lacking, *carried)}
    rest = [one for one in answer.blockers if one.code not in SYNCED or one.subject not in mended]
    for need in target.files:
        for one in rest if need.path in twice else ():
            if one.subject == _record(need).subject:
                one.reason += f", and the process has it open as {twice[need.path]} too"
                one.hint = "copy it there with both of its names, as links of one file"
    paths = frozenset(need.path for need in carried)
    if rest or not may_send or not mended:
        would = [pb.Notice(text=f"would copy {path} to the destination") for path in _paths(lacking, carried)]
        return pb.CheckAnswer(blockers=rest, notices=[*answer.notices, *would]), paths
    root = root_of(pid)
    for need in (*lacking, *map(_folder, carried)):
        await _send(there, root, need, replace=need.path in answer.differing)
    others = pb.TargetFacts()
    others.CopyFrom(target)
    del others.files[:]
    others.files.extend(need for need in target.files if need.path not in paths)
    answer = await there.ask(pb.Check(target=others), pb.CheckAnswer)
    answer.notices.extend(pb.Notice(text=f"copied {need.path} to the destination") for need in lacking)
    answer.notices.extend(
        pb.Notice(text=f"{path} goes along; the one here stays as it is then") for path in sorted(paths)
    )
    return answer, paths


def _record(need: pb.FileNeed) -> FileNeed:
    used_as = tuple(need.used_as)
    return FileNeed(need.path, need.mode, writable=need.writable, filesystem_id=need.filesystem_id, used_as=used_as)


def _paths(*needs: Sequence[pb.FileNeed]) -> list[str]:
    return sorted({need.path for some in needs for need in some})


def _folder(need: pb.FileNeed) -> pb.FileNeed:
    return pb.FileNeed(path=need.path.rpartition("/")[0] or "/", mode=stat.S_IFDIR)


def root_of(pid: int) -> str:
    """Where the files of process `pid` are, as seen from a thread that lives: the first may have ended."""
    roots = [f"/proc/{pid}/task/{tid}/root" for tid in os.listdir(f"/proc/{pid}/task")]
    return next((root for root in roots if os.path.exists(root)), f"/proc/{pid}/root")


def lacking_files(needs: Sequence[pb.FileNeed], answer: pb.CheckAnswer, choice: str) -> list[pb.FileNeed]:
    """Those that are to be sent, each once, directories before what is in them: no devices and sockets, nothing that is
    open for writing. Pure."""
    paths = {"none": set[str](), "missing": set(answer.missing), "changed": {*answer.missing, *answer.differing}}[
        choice
    ]
    written = _written(needs)
    found = {
        need.path: need
        for need in needs
        if need.path in paths - written
        and (stat.S_ISREG(need.mode) if need.path in answer.differing else _record(need).is_sent(""))
    }
    return [found[path] for path in sorted(found)]


def carried_files(target: pb.TargetFacts, answer: pb.CheckAnswer, choice: str) -> list[pb.FileNeed]:
    """Uses of those that are written to: they go over in the rounds. None of a network's file system, which only has to
    be mounted there. Pure."""
    written = _written(target.files) if choice != "none" else set()
    return [
        need
        for need in target.files
        if need.path in written and need.path in answer.missing and _record(need).is_sent(target.host.boot_id)
    ]


def named_twice(needs: Sequence[pb.FileNeed], carried: Sequence[pb.FileNeed]) -> dict[str, str]:
    """Paths of `carried` files that another path leads to as well (hard links), and that one: over there it would lead
    to another file. Pure."""
    names: dict[tuple[str, int], set[str]] = {}
    for need in needs:
        if stat.S_ISREG(need.mode):
            names.setdefault((need.filesystem_id, need.inode), set()).add(need.path)
    others = {need.path: names[need.filesystem_id, need.inode] - {need.path} for need in carried}
    return {path: min(paths) for path, paths in others.items() if paths}


def _written(needs: Sequence[pb.FileNeed]) -> set[str]:
    return {need.path for need in needs if need.writable and stat.S_ISREG(need.mode)}


async def _send(there: Peer, root: str, need: pb.FileNeed, *, replace: bool) -> None:
    try:
        head = await asyncio.to_thread(_head, root, need.path, replace)
        await there.ask(head, pb.FileTaken)
        if stat.S_ISREG(head.mode):
            await _send_content(there, root + need.path)
    except OSError as error:
        raise SyncError(f"{need.path}: cannot be sent: {error.strerror}") from error


async def _send_content(there: Peer, path: str) -> None:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            digest.update(piece)
            await there.ask(pb.FilePiece(content=piece), pb.FileTaken)
    await there.ask(pb.FilePiece(sha256=digest.digest()), pb.FileTaken)


def _head(root: str, path: str, replace: bool) -> pb.FileHead:
    parts = path.split("/")
    folders = [_attributes(root + ("/".join(parts[:depth]) or "/")) for depth in range(2, len(parts))]
    return pb.FileHead(
        path=path, replace=replace, mode=os.stat(root + path).st_mode, attributes=_attributes(root + path),
        folders=folders,
    )  # fmt: skip


def _attributes(path: str) -> pb.FileAttributes:
    found = os.stat(path)
    return pb.FileAttributes(
        mode=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid, atime_ns=found.st_atime_ns,
        mtime_ns=found.st_mtime_ns,
        xattrs=[pb.Xattr(name=name, value=os.getxattr(path, name)) for name in os.listxattr(path)],
    )  # fmt: skip


class FileSink:
    """The destination's half, file by file. `close` leaves nothing half-written."""

    def __init__(self) -> None:
        self._head = pb.FileHead()
        self._temporary = ""
        self._fd = -1
        self._digest = hashlib.sha256()

    def begin(self, head: pb.FileHead) -> pb.FileTaken:
        """A file, a directory or a FIFO; SyncError when it is there and may not be replaced, but for a directory."""
        self.close()
        path = head.path
        if not path.startswith("/") or os.path.normpath(path) != path:
            raise SyncError(f"{path}: is not a plain absolute path")
        if stat.S_ISDIR(head.mode) and os.path.isdir(path):
            return pb.FileTaken()
        if os.path.lexists(path) and not (head.replace and stat.S_ISREG(os.lstat(path).st_mode)):
            raise SyncError(f"{path}: is there already, and is not replaced")
        try:
            self._make_folders(path, head.folders)
            if stat.S_ISREG(head.mode):
                self._begin_file(head)
            else:
                os.mkdir(path, 0o700) if stat.S_ISDIR(head.mode) else os.mkfifo(path, 0o600)
                _apply(path, head.attributes)
        except OSError as error:
            raise SyncError(f"{path}: cannot be made: {error.strerror}") from error
        return pb.FileTaken()

    def _make_folders(self, path: str, folders: Sequence[pb.FileAttributes]) -> None:
        parts = path.split("/")
        for depth, attributes in zip(range(2, len(parts)), folders, strict=True):
            folder = "/".join(parts[:depth])
            if not os.path.lexists(folder):
                os.mkdir(folder, 0o700)
                _apply(folder, attributes)

    def _begin_file(self, head: pb.FileHead) -> None:
        folder, _, name = head.path.rpartition("/")
        temporary = f"{folder}/.migrate-sync-{os.getpid()}-{name[:100]}"
        self._fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._head, self._temporary, self._digest = head, temporary, hashlib.sha256()

    def take(self, piece: pb.FilePiece) -> pb.FileTaken:
        """Content, or with a hash the end of it: the file gets its name."""
        if self._fd < 0:
            raise SyncError("a piece of a file came that had not begun")
        try:
            if piece.sha256:
                self._finish(piece.sha256)
                return pb.FileTaken()
            self._digest.update(piece.content)
            content = memoryview(piece.content)
            while content:
                content = content[os.write(self._fd, content) :]
        except OSError as error:
            self.close()
            raise SyncError(f"{self._head.path}: cannot be written: {error.strerror}") from error
        return pb.FileTaken()

    def _finish(self, sha256: bytes) -> None:
        if sha256 != self._digest.digest():
            raise SyncError(f"{self._head.path}: did not arrive as it was sent")
        _apply(self._temporary, self._head.attributes)
        os.fsync(self._fd)
        if self._head.replace:
            os.rename(self._temporary, self._head.path)
        else:
            os.link(self._temporary, self._head.path)  # never over one that is there by now
        self.close()

    def close(self) -> None:
        """Forget a file that is not whole. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)
        self._fd = -1


def _apply(path: str, attributes: pb.FileAttributes) -> None:
    """Owner first, which takes rights away; then mode, extended attributes, times."""
    os.chown(path, attributes.uid, attributes.gid)
    os.chmod(path, attributes.mode)
    for xattr in attributes.xattrs:
        with suppress(OSError):  # a file system without them, or a name that belongs to its security module
            os.setxattr(path, xattr.name, xattr.value)
    os.utime(path, ns=(attributes.atime_ns, attributes.mtime_ns))
