"""Which files were written to otherwise than through mappings: inotify(7), by descriptor."""

import os
import struct
from contextlib import suppress
from typing import Final

from core.kernel.calls import address_of, syscall

IN_MODIFY, IN_Q_OVERFLOW = 0x2, 0x4000
EVENT: Final = struct.Struct("iIII")
BUFFER_BYTES: Final = 1 << 16
FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC


class ModifyWatch:
    """OSError where inotify is used up."""

    def __init__(self) -> None:
        self._fd = syscall("inotify_init1", FLAGS)

    def add(self, fd: int) -> int:
        """Watch the file behind `fd` from now on; its number. OSError."""
        path = f"/proc/self/fd/{fd}\0".encode()
        return syscall("inotify_add_watch", self._fd, address_of(path), IN_MODIFY)

    def remove(self, number: int) -> None:
        """It is of no interest any more."""
        with suppress(OSError):  # the file is no more
            syscall("inotify_rm_watch", self._fd, number)

    def read(self, every: set[int]) -> set[int]:
        """Numbers of the files that were written to since the last call: of `every` one, when some were lost."""
        found: set[int] = set()
        while True:
            try:
                content = os.read(self._fd, BUFFER_BYTES)
            except BlockingIOError:
                return found
            position = 0
            while position < len(content):
                number, mask, _, name_bytes = EVENT.unpack_from(content, position)
                found |= every if mask & IN_Q_OVERFLOW else {number}
                position += EVENT.size + name_bytes

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
