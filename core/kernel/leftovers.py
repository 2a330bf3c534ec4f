"""What a restore makes outside of its processes and leaves when it is killed: System V segments, POSIX message queues,
files with names.

Written down while it may yet fail, removed by whoever restores next.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from core.kernel.calls import syscall
from core.kernel.ipc_namespace import at_home
from core.kernel.posix_mqueue import remove_queue
from core.proc.main_thread import main_threads
from core.proc.reader import ProcReader

FOLDER: Final = Path("/run/migrate/made")
IPC_RMID: Final = 0


class Leftovers:
    """The record of this process's work. `clear` when the work is done, or undone."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._record: Path | None = None

    def note_segment(self, id: int) -> None:
        """Before a System V segment with this id is made."""
        self._note({"segment": id})

    def note_file(self, path: str, fd: int) -> None:
        """Before a file that was made gets its name, where the file system makes any without one."""
        found = os.fstat(fd)
        self._note({"file": path, "device": found.st_dev, "inode": found.st_ino})

    def note_queue(self, name: str, fd: int) -> None:
        """Just after a POSIX message queue was made."""
        self._note({"queue": name, "inode": os.fstat(fd).st_ino})

    def _note(self, made: dict[str, Any]) -> None:
        if self._record is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._record = self._folder / f"{os.getpid()}-{_start_time(os.getpid())}-{id(self):x}"
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(made) + "\n")

    def clear(self) -> None:
        """Nothing is left behind from here on. Idempotent."""
        if self._record is not None:
            self._record.unlink(missing_ok=True)
        self._record = None


def sweep(folder: Path = FOLDER) -> None:
    """Remove what those left behind who were killed, unless somebody uses it: a copy that is parked still."""
    with at_home():
        for record, maker in _abandoned(folder):
            used = [made for made in _read(record) if not _remove(made, maker)]
            if not used:
                record.unlink(missing_ok=True)


def adopt(folder: Path = FOLDER) -> None:
    """A parked copy runs now: what is used is its own."""
    sweep(folder)
    for record, _ in _abandoned(folder):
        record.unlink(missing_ok=True)


def _abandoned(folder: Path) -> Iterator[tuple[Path, int]]:
    """Records whose makers are no more, and the makers' PIDs."""
    for record in sorted(folder.glob("*-*-*")):
        pid, start_time, _ = record.name.split("-")
        if _start_time(int(pid)) != int(start_time):
            yield record, int(pid)


def _read(record: Path) -> list[dict[str, Any]]:
    found = []
    with suppress(OSError, ValueError):  # gone, or cut off in a line that was not acted upon any more
        for line in record.read_text(encoding="utf-8").splitlines():
            found.append(json.loads(line))
    return found


def _start_time(pid: int) -> int:
    try:
        return ProcReader().stat(pid).start_time
    except OSError:
        return 0


def _remove(made: dict[str, Any], maker: int) -> bool:
    """False when it is used."""
    if "segment" in made:
        return _remove_segment(int(made["segment"]), maker)
    if "queue" in made:
        return _remove_queue(str(made["queue"]), int(made["inode"]))
    return _remove_file(str(made["file"]), (int(made["device"]), int(made["inode"])))


def _remove_segment(id: int, maker: int) -> bool:
    for one in ProcReader().sysv_segments():
        if one.id == id and one.creator_pid == maker:
            if one.attached:
                return False
            with suppress(OSError):
                syscall("shmctl", id, IPC_RMID, 0)
    return True


def _remove_queue(name: str, inode: int) -> bool:
    reader = ProcReader()
    for pid in main_threads(reader):
        with suppress(OSError):
            if any(_is_queue(pid, fd, name, inode, reader) for fd in reader.fds(pid)):
                return False
    with suppress(OSError):
        remove_queue(name, inode)
    return True


def _is_queue(pid: int, fd: int, name: str, inode: int, reader: ProcReader) -> bool:
    """False, too, for a descriptor that was closed meanwhile."""
    with suppress(OSError):
        return reader.fd_link(pid, fd).endswith(f"/{name}") and reader.fd_stat(pid, fd).st_ino == inode
    return False


def _remove_file(path: str, inode: tuple[int, int]) -> bool:
    with suppress(FileNotFoundError):
        found = os.stat(path)
        if (found.st_dev, found.st_ino) == inode:
            if _is_used(path, inode):
                return False
            os.unlink(path)
    return True


def _is_used(path: str, inode: tuple[int, int]) -> bool:
    """Whether some process maps it or has it open. Of a mapping not every file system tells the device that stat(2)
    does: the path is enough."""
    reader = ProcReader()
    for pid in main_threads(reader):
        with suppress(OSError):
            if any(vma.path == path or (os.makedev(*vma.device), vma.inode) == inode for vma in reader.maps(pid)):
                return True
            if any(_is_file(pid, fd, inode, reader) for fd in reader.fds(pid)):
                return True
    return False


def _is_file(pid: int, fd: int, inode: tuple[int, int], reader: ProcReader) -> bool:
    """False, too, for a descriptor that was closed meanwhile."""
    with suppress(OSError):
        found = reader.fd_stat(pid, fd)
        return (found.st_dev, found.st_ino) == inode
    return False
