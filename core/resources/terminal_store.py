"""Makes the pseudo-terminals of a tree that is restored, and holds their masters until its tasks have them.

They are there before the tasks are: who is born into a session inherits its terminal, there is no other way to it.
"""

import fcntl
import os
import stat
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from core.errors import ImageError, RestoreError
from core.images import kinds
from core.images.pb.tty_pb2 import TtyDataEntry, TtyInfoEntry
from core.images.store import ImageSet
from core.kernel import pty
from core.kernel.pty_content import PtyContent, put_content
from core.plan.terminals import FIRST_HANDED, masters, settings_of, without_holder

TRIES: Final = 1024  # to come by a number: lower ones that are free are taken for a moment


@dataclass(slots=True)
class _Made:
    """One pair here: the master, and N of its /dev/pts/N, which may be another one than it was."""

    master: int
    number: int


class TerminalStore:
    """The pairs of one restore. close() on every way out, when the tasks have theirs or are gone."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}

    def make(self, images: ImageSet) -> None:
        """Those that are not there yet; those that are not named any more go."""
        wanted = masters(images)
        for id in set(self._made) - set(wanted):
            os.close(self._made.pop(id).master)
        for id, info in sorted(wanted.items()):
            if id in self._made:
                continue
            try:
                self._made[id] = _make(info)
            except OSError as error:
                raise RestoreError(f"terminal /dev/pts/{info.pty.index}: cannot be made: {error.strerror}") from error
            except struct.error as error:
                raise ImageError(kinds.TTY_INFO.file_name(), f"terminal {id}: no window is that large") from error

    def fd(self, id: int) -> int:
        """A master, by its number among what is handed to tasks."""
        return self._need(id - FIRST_HANDED).master

    def or_else(self, others: Callable[[int], int]) -> Callable[[int], int]:
        """Descriptors of everything that is handed to tasks: `others` knows what is no terminal."""
        return lambda id: self.fd(id) if id >= FIRST_HANDED else others(id)

    def path(self, id: int) -> str:
        """Where the slave is here."""
        return f"/dev/pts/{self._need(id).number}"

    def _need(self, id: int) -> _Made:
        if id not in self._made:
            raise ImageError(kinds.TTY_INFO.file_name(), f"does not have terminal {id}")
        return self._made[id]

    def settle(self, images: ImageSet) -> list[str]:
        """Every task has its ends: settings, contents, and what would keep anybody from opening them; notices."""
        infos = {info.id: info for info in images.all(kinds.TTY_INFO)}
        contents = {entry.tty_id: entry for entry in images.all(kinds.TTY_DATA)}
        for id, made in self._made.items():
            try:
                _settle(made.master, infos[id], infos.get(id ^ 1), contents)
            except OSError as error:
                raise RestoreError(f"terminal /dev/pts/{made.number}: {error}") from error
            except (struct.error, ValueError) as error:
                raise ImageError(kinds.TTY_INFO.file_name(), f"terminal {id}: is set to what there is not") from error
        old = {id: infos[id].pty.index for id in self._made}
        return [
            f"terminal /dev/pts/{old[id]} is /dev/pts/{made.number} here: that number is taken"
            for id, made in self._made.items()
            if made.number != old[id]
        ]

    def without_holder(self, images: ImageSet) -> list[int]:
        """Masters that no task has, as descriptors of ours: somebody else has to keep them, or their tasks hang up."""
        return [self._made[id].master for id in sorted(without_holder(images)) if id in self._made]

    def close(self) -> None:
        """Let go of the masters; those of tasks live on. Idempotent."""
        for made in self._made.values():
            os.close(made.master)
        self._made.clear()


def _make(info: TtyInfoEntry) -> _Made:
    """With its old number where that is free, and its size: to set that later on would be told to its session."""
    masters: list[int] = []
    try:
        while len(masters) < TRIES:
            masters.append(pty.open_master())
            if (number := pty.read_number(masters[-1]) or 0) >= info.pty.index:
                break
        size = info.winsize
        pty.write_window(masters[-1], pty.WindowSize(size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel))
        return _Made(masters.pop(), number)
    finally:
        for fd in masters:
            os.close(fd)


def _settle(master: int, info: TtyInfoEntry, other: TtyInfoEntry | None, contents: dict[int, TtyDataEntry]) -> None:
    """`other`: the slave, which nobody has opened yet if it has no owner."""
    size = pty.WindowSize(info.winsize.ws_row, info.winsize.ws_col, info.winsize.ws_xpixel, info.winsize.ws_ypixel)
    if size != pty.read_window(master):
        pty.write_window(master, size)
    if info.HasField("termios"):
        pty.write_settings(master, settings_of(info.termios))
    if other is not None and other.HasField("uid"):
        with pty.opened_slave(master) as slave:
            os.fchown(slave, other.uid, other.gid)
            if other.HasField("mode"):
                os.fchmod(slave, stat.S_IMODE(other.mode))
            put_content(master, slave, _content(contents.get(info.id), contents.get(other.id)))
            if other.exclusive:
                fcntl.ioctl(slave, termios.TIOCEXCL)
    if info.HasField("termios_locked"):
        pty.write_locked(master, settings_of(info.termios_locked))
    if info.packet_mode:
        pty.write_switch(master, termios.TIOCPKT, 1)
    if info.exclusive:
        fcntl.ioctl(master, termios.TIOCEXCL)
    if info.locked:
        pty.write_switch(master, pty.TIOCSPTLCK, 1)


def _content(output: TtyDataEntry | None, typed: TtyDataEntry | None) -> PtyContent:
    found = PtyContent(output.data if output else b"")
    if typed is None:
        return found
    start = 0
    for length in typed.lines:
        found.lines.append(typed.data[start : start + length])
        start += length
    if start > len(typed.data):
        raise ImageError(kinds.TTY_DATA.file_name(), f"terminal {typed.tty_id}: its lines are longer than its content")
    found.rest = typed.data[start:]
    return found
