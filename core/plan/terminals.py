"""Pseudo-terminals that travel with both ends: which ones the images of a tree speak of, and who is led by which. Pure.

As in CRIU the ends of /dev/pts/N are 2 N and, of the master, 2 N + 1.
"""

from typing import Final

from core.images import kinds
from core.images.pb.tty_pb2 import PTY, TermiosEntry, TtyInfoEntry
from core.images.store import ImageSet
from core.kernel.pty import CHARACTERS, Settings

FIRST_HANDED: Final = 1 << 40  # numbers from here on are of terminals, among what is handed to tasks
HUNG_UP: Final = 1 << 30  # the number of all slaves that are cut off
OUTSIDE: Final = 1 << 29  # beside its device number: the number of a terminal that is no pseudo-terminal


def master_id(number: int) -> int:
    """Of the master of /dev/pts/`number`."""
    return number << 1 | 1


def slave_id(number: int) -> int:
    """Of /dev/pts/`number` itself."""
    return number << 1


def masters(images: ImageSet) -> dict[int, TtyInfoEntry]:
    """All pairs, by the master's number."""
    return {info.id: info for info in images.all(kinds.TTY_INFO) if info.id & 1 and info.type == PTY}


def controlling(images: ImageSet) -> dict[int, int]:
    """Session → master of its controlling terminal."""
    return {info.sid: id for id, info in masters(images).items() if info.sid}


def outside(images: ImageSet) -> set[int]:
    """Numbers of the pseudo-terminals that tasks have open and whose masters nobody described."""
    slaves = {info.id for info in images.all(kinds.TTY_INFO) if not info.id & 1 and info.id < OUTSIDE}
    return {id >> 1 for id in slaves - {id & ~1 for id in masters(images)}}


def without_holder(images: ImageSet) -> set[int]:
    """Masters that no task has: they stand in for terminals outside of the tree."""
    held = {entry.tty.tty_info_id for entry in images.all(kinds.FILES) if entry.HasField("tty")}
    return set(masters(images)) - held


def settings_of(entry: TermiosEntry) -> Settings:
    """What an image says; what is missing is 0."""
    return Settings(
        entry.c_iflag, entry.c_oflag, entry.c_cflag, entry.c_lflag, entry.c_line & 0xFF,
        bytes(entry.c_cc[:CHARACTERS]).ljust(CHARACTERS, b"\0"), entry.c_ispeed, entry.c_ospeed,
    )  # fmt: skip
