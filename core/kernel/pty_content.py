"""What waits in a pair of pseudo-terminals, in both directions. The kernel lets nobody look without reading: it is read
and put back at once, while everybody who has the pair stands still and we take no signal.
"""

import fcntl
import os
import select
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from core.kernel.pty import (
    EXTPROC,
    TIOCGPKT,
    Settings,
    changeable,
    output_waits,
    read_switch,
    ready,
    write_settings,
    write_switch,
)

AT_ONCE: Final = 8192
ROOM: Final = 4095  # bytes of input that the kernel keeps treated; what comes then waits on its way
ROOM_TIMEOUT_MS: Final = 5000
PIECE: Final = 256  # what the kernel allocates at a time: of larger ones less fits
END_OF_FILE, QUOTE = 4, 22  # ^D, ^V: special while input is put back, and nothing else
SPECIAL: Final = frozenset([ord("\n"), END_OF_FILE, QUOTE])


@dataclass(slots=True)
class PtyContent:
    """`output`: for the master to read. Input of the slave: `lines` that are finished, each as one read(2) returns it
    (an empty one is an end of file), and the `rest`: an unfinished line, or everything where there are no lines."""

    output: bytes = b""
    lines: list[bytes] = field(default_factory=list)
    rest: bytes = b""


def is_stopped(master: int, slave: int) -> bool:
    """True when output is held up by Ctrl-S or tcflow(3): no room, though little waits."""
    return not ready(slave, select.POLLOUT) and output_waits(master) < ROOM


def copy_content(master: int, slave: int) -> PtyContent:
    """All that waits; it is as it was afterwards. `slave` does not block, and its output is not stopped."""
    found = PtyContent()
    with _no_signals(), _no_packets(master), changeable(slave) as settings:
        try:
            _take_input(slave, settings, found)
            while ready(master, select.POLLIN) and (waiting := output_waits(master)):
                found.output += os.read(master, waiting)
        finally:
            write_settings(slave, settings)
            _put(master, slave, settings, found)
    return found


def put_content(master: int, slave: int, content: PtyContent) -> None:
    """Into a pair that holds nothing, and has its settings."""
    with _no_packets(master), changeable(slave) as settings:
        _put(master, slave, settings, content)


@contextmanager
def _no_signals() -> Iterator[None]:
    """A Ctrl-C must not come between reading and putting back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _no_packets(master: int) -> Iterator[None]:
    """Without packet mode, whose marks would be among what the master reads."""
    on = read_switch(master, TIOCGPKT)
    if on:
        write_switch(master, termios.TIOCPKT, 0)
    try:
        yield
    finally:
        if on:
            write_switch(master, termios.TIOCPKT, 1)


def _take_input(slave: int, settings: Settings, found: PtyContent) -> None:
    """What is still on its way comes as it is: it is echoed, and acts, when its time comes."""
    quiet = replace(
        settings,
        iflag=settings.iflag & ~termios.IXON,
        lflag=settings.lflag & ~(termios.ECHO | termios.ECHONL | termios.ISIG),
    )
    write_settings(slave, quiet)
    if settings.by_line:
        while (line := _read(slave)) is not None:
            found.lines.append(line)
        write_settings(slave, replace(quiet, lflag=quiet.lflag & ~termios.ICANON))
    while piece := _read(slave):
        found.rest += piece


def _read(slave: int) -> bytes | None:
    try:
        return os.read(slave, AT_ONCE)
    except BlockingIOError:
        return None


def _put(master: int, slave: int, settings: Settings, content: PtyContent) -> None:
    if content.output:
        write_settings(slave, replace(settings, oflag=settings.oflag & ~termios.OPOST))
        _write(slave, content.output)
        write_settings(slave, settings)
    if content.lines or content.rest:
        _type(master, slave, settings, content)


def _type(master: int, slave: int, settings: Settings, content: PtyContent) -> None:
    """Give the slave its input as if typed, but silently and byte by byte as it is.

    What is more than the kernel keeps waits on the master's side instead, to be treated once more as the settings say.
    """
    used, late = 0, b""
    write_settings(slave, _typing(settings))
    for line in content.lines:
        used += len(line) + (not line.endswith(b"\n"))
        if used <= ROOM:
            _insert(slave, typed_line(line))
        else:
            late += line if line.endswith(b"\n") else line + settings.characters[termios.VEOF : termios.VEOF + 1]
    now = max(ROOM - used, 0)
    _insert(slave, _quoted(content.rest[:now]) if settings.by_line else content.rest[:now])
    write_settings(slave, settings)
    _write(master, late + content.rest[now:])


def _insert(slave: int, typed: bytes) -> None:
    """Each byte has been treated when the call returns."""
    for byte in typed:
        fcntl.ioctl(slave, termios.TIOCSTI, bytes([byte]))


def _typing(settings: Settings) -> Settings:
    """No signals, no echo, nothing translated; lines only end where we say so."""
    characters = bytearray(len(settings.characters))
    characters[termios.VEOF], characters[termios.VLNEXT], characters[termios.VMIN] = END_OF_FILE, QUOTE, 1
    kept = settings.lflag & (termios.ICANON | EXTPROC)
    return replace(settings, iflag=0, lflag=kept | termios.IEXTEN, characters=bytes(characters))


def typed_line(line: bytes) -> bytes:
    """What has to be typed so that read(2) returns `line`. Pure."""
    if line.endswith(b"\n"):
        return _quoted(line[:-1]) + b"\n"
    return _quoted(line) + bytes([END_OF_FILE])


def _quoted(text: bytes) -> bytes:
    return b"".join(bytes([QUOTE, byte] if byte in SPECIAL else [byte]) for byte in text)


def _write(fd: int, content: bytes) -> None:
    """All of it, whatever the descriptor does when there is no room; OSError when none comes."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if content:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        while content:
            if not ready(fd, select.POLLOUT, ROOM_TIMEOUT_MS):
                raise TimeoutError(f"no room for {len(content)} bytes of a terminal")
            try:
                content = content[os.write(fd, content[:PIECE]) :]
            except BlockingIOError:
                continue
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
