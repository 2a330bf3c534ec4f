"""userfaultfd(2) for asynchronous write-protect tracking, driven from outside the process it belongs to.

Owns the ioctls. The rules by which they lose no write: mg_uffd_track in core/native/memory.c, and core.memory.dirty.
"""

import fcntl
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.kernel.calls import syscall
from core.native._kernel import ffi, lib

# linux/userfaultfd.h
UFFD_USER_MODE_ONLY: Final = 1
UFFD_API: Final = 0xAA
UFFDIO_API: Final = 0xC018AA3F  # _IOWR(0xAA, 0x3F, struct uffdio_api)
UFFDIO_REGISTER: Final = 0xC020AA00  # _IOWR(0xAA, 0x00, struct uffdio_register)
UFFDIO_WRITEPROTECT: Final = 0xC018AA06  # _IOWR(0xAA, 0x06, struct uffdio_writeprotect)
UFFDIO_WRITEPROTECT_MODE_WP: Final = 1
UFFDIO_REGISTER_MODE_MISSING: Final = 1
UFFDIO_REGISTER_MODE_WP: Final = 2
FEATURE_WP_UNPOPULATED: Final = 1 << 13
FEATURE_WP_ASYNC: Final = 1 << 15

# Without USER_MODE_ONLY a target without privileges gets EPERM; stores made by the kernel are tracked all the same.
OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY


@dataclass(frozen=True, slots=True)
class TrackedVma:
    """[start, end) to track; `force` registers it even when it looks registered already."""

    start: int
    end: int
    force: bool = False


def open_own() -> int:
    """A userfaultfd of the calling process (to probe the kernel with)."""
    return syscall("userfaultfd", OPEN_FLAGS)


def enable_async_tracking(uffd: int) -> None:
    """The UFFDIO_API handshake with WP_ASYNC; OSError EINVAL when the kernel lacks it or it was done already."""
    request = struct.pack("QQQ", UFFD_API, FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED, 0)
    fcntl.ioctl(uffd, UFFDIO_API, request)


def enable_filling(uffd: int) -> None:
    """The UFFDIO_API handshake for UFFDIO_COPY. OSError."""
    fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", UFFD_API, 0, 0))


def register_missing(uffd: int, start: int, end: int) -> None:
    """From here on the absent pages of [start, end) are filled by UFFDIO_COPY alone. OSError: not such memory."""
    fcntl.ioctl(uffd, UFFDIO_REGISTER, struct.pack("QQQQ", start, end - start, UFFDIO_REGISTER_MODE_MISSING, 0))


def track(pagemap_fd: int, uffd: int, vmas: Sequence[TrackedVma]) -> list[int]:
    """Make every VMA tracked; what had to be registered counts as written throughout. Per VMA: 0 or an errno."""
    return [code for code, _ in track_told(pagemap_fd, uffd, vmas)]


def track_told(pagemap_fd: int, uffd: int, vmas: Sequence[TrackedVma]) -> list[tuple[int, bool]]:
    """As track; also whether each had to be registered."""
    records = ffi.new("struct mg_tracked_vma[]", [(vma.start, vma.end, vma.force, 0) for vma in vmas])
    lib.mg_uffd_track(pagemap_fd, uffd, records, len(vmas))
    return [(-records[i].error, bool(records[i].force)) for i in range(len(vmas))]


def write_protect(uffd: int, start: int, end: int) -> None:
    """What is there of [start, end) is protected, and marks are put where nothing is. OSError: not registered."""
    fcntl.ioctl(uffd, UFFDIO_WRITEPROTECT, struct.pack("QQQ", start, end - start, UFFDIO_WRITEPROTECT_MODE_WP))


def disable_fault_around(uffd: int, start: int, end: int) -> None:
    """Registered for write-protection, [start, end) of this process gets one page per fault. OSError."""
    fcntl.ioctl(uffd, UFFDIO_REGISTER, struct.pack("QQQQ", start, end - start, UFFDIO_REGISTER_MODE_WP, 0))
