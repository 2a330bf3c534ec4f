"""Pseudo-terminals by their descriptors: settings, switches of each end, the other end. Source: ioctl_tty(2)."""

import errno
import fcntl
import os
import select
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from core.kernel.pipe_content import waiting_bytes

SLAVE_MAJOR: Final = 136
CHARACTERS: Final = 19
EXTPROC: Final = 0o200000  # of lflag: input is treated elsewhere
TCGETS2, TCSETS2 = 0x802C542A, 0x402C542B
TIOCGLCKTRMIOS, TIOCSLCKTRMIOS = 0x5456, 0x5457
TIOCGPTN, TIOCSPTLCK, TIOCGPTLCK, TIOCGPTPEER = 0x80045430, 0x40045431, 0x80045439, 0x5441
TIOCGSID, TIOCGDEV, TIOCGPKT, TIOCGEXCL = 0x5429, 0x80045432, 0x80045438, 0x80045440
_INT: Final = struct.Struct("i")
_SETTINGS: Final = struct.Struct("<4IB19s2I")  # the kernel's struct termios2
_LOCKED: Final = struct.Struct("<4IB19s")  # struct termios
_SIZE: Final = struct.Struct("4H")


@dataclass(frozen=True, slots=True)
class Settings:
    """What tcgetattr(3) tells; both ends of a pair give the slave's. Speeds in baud, `characters` as in c_cc."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    line: int
    characters: bytes
    ispeed: int = 0
    ospeed: int = 0

    @property
    def by_line(self) -> bool:
        """Input is given out line by line, and the last one can be edited."""
        return bool(self.lflag & termios.ICANON) and not self.lflag & EXTPROC


@dataclass(frozen=True, slots=True)
class WindowSize:
    """In characters and in pixels."""

    rows: int
    columns: int
    width: int = 0
    height: int = 0


def read_settings(fd: int) -> Settings:
    """Of a terminal. OSError with EIO when it is hung up."""
    return Settings(*_SETTINGS.unpack(fcntl.ioctl(fd, TCGETS2, bytes(_SETTINGS.size))))


def write_settings(fd: int, settings: Settings) -> None:
    """At once, nothing is flushed. Bits that are locked stay."""
    fcntl.ioctl(fd, TCSETS2, packed(settings))


def packed(settings: Settings) -> bytes:
    """As TCSETS2 takes them."""
    return _SETTINGS.pack(*_fields(settings), settings.ispeed, settings.ospeed)


def read_locked(fd: int) -> Settings:
    """Which bits and characters cannot be changed: those that are not zero."""
    return Settings(*_LOCKED.unpack(fcntl.ioctl(fd, TIOCGLCKTRMIOS, bytes(_LOCKED.size))))


def write_locked(fd: int, locked: Settings) -> None:
    """Needs CAP_SYS_ADMIN."""
    fcntl.ioctl(fd, TIOCSLCKTRMIOS, _LOCKED.pack(*_fields(locked)))


def _fields(one: Settings) -> tuple[int, int, int, int, int, bytes]:
    return one.iflag, one.oflag, one.cflag, one.lflag, one.line, one.characters


@contextmanager
def changeable(slave: int) -> Iterator[Settings]:
    """The settings, all of which may be changed; they are put back, and what was locked is locked again."""
    locked, settings = read_locked(slave), read_settings(slave)
    none = replace(locked, iflag=0, oflag=0, cflag=0, lflag=0, line=0, characters=bytes(len(locked.characters)))
    if locked != none:
        write_locked(slave, none)
    try:
        yield settings
    finally:
        write_settings(slave, settings)
        if locked != none:
            write_locked(slave, locked)


def read_window(fd: int) -> WindowSize:
    """Of a terminal; either end will do."""
    rows, columns, width, height = _SIZE.unpack(fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(_SIZE.size)))
    return WindowSize(rows, columns, width, height)


def write_window(fd: int, size: WindowSize) -> None:
    """SIGWINCH goes to the foreground group when it is another size than before."""
    packed_size = _SIZE.pack(size.rows, size.columns, size.width, size.height)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, packed_size)


def read_switch(fd: int, request: int) -> int:
    """What an ioctl that fills an int says."""
    return int(_INT.unpack(fcntl.ioctl(fd, request, bytes(_INT.size)))[0])


def write_switch(fd: int, request: int, value: int) -> None:
    """An ioctl that takes a pointer to an int."""
    fcntl.ioctl(fd, request, _INT.pack(value))


def read_number(fd: int) -> int | None:
    """N of the /dev/pts/N that the terminal of either end, or of /dev/tty, is; None for terminals of other kinds.

    OSError with EIO when it is hung up.
    """
    device = read_switch(fd, TIOCGDEV)
    return os.minor(device) if os.major(device) == SLAVE_MAJOR else None


def is_hung_up(fd: int) -> bool:
    """True for an end whose master is closed, or that vhangup(2) has cut off."""
    try:
        read_number(fd)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def read_session(master: int) -> tuple[int, int]:
    """Session that the slave is the controlling terminal of, and its foreground group, as we see them; 0: none."""
    session = group = 0
    with suppress(OSError):
        session, group = read_switch(master, TIOCGSID), read_switch(master, termios.TIOCGPGRP)
    return session, group


def open_master() -> int:
    """A new pair's; the slave may be opened."""
    fd = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    write_switch(fd, TIOCSPTLCK, 0)
    return fd


@contextmanager
def opened_slave(master: int) -> Iterator[int]:
    """The slave, for us alone: a descriptor that does not block."""
    locked = read_switch(master, TIOCGPTLCK)
    if locked:
        write_switch(master, TIOCSPTLCK, 0)
    try:
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        slave = fcntl.ioctl(master, TIOCGPTPEER, flags)
    finally:
        if locked:
            write_switch(master, TIOCSPTLCK, 1)
    try:
        yield slave
    finally:
        os.close(slave)


def output_waits(master: int) -> int:
    """How many bytes that the slave's side wrote the master can read now."""
    return waiting_bytes(master)


def ready(fd: int, events: int, timeout_ms: int = 0) -> int:
    """Those of poll(2)'s `events` that are so now, or soon, and POLLHUP."""
    poller = select.poll()
    poller.register(fd, events)
    return next((found for _, found in poller.poll(timeout_ms)), 0)
