"""File handles: from what the kernel tells of a watched inode to its path. Source: open_by_handle_at(2)."""

import os
import struct
from collections.abc import Sequence

from core.kernel.calls import address_of, syscall
from core.proc.mountinfo import Mount


def path_of_handle(mounts: Sequence[Mount], device: int, kind: int, handle: bytes) -> str | None:
    """Path of the inode on the file system `device` (as stat(2) has it); None when no mount of ours leads to it."""
    for mount in mounts:
        if mount.device == (os.major(device), os.minor(device)):
            path = _path_by(mount.mount_point, kind, handle)
            if path is not None:
                return path
    return None


def _path_by(mount_point: str, kind: int, handle: bytes) -> str | None:
    packed = bytearray(struct.pack("<Ii", len(handle), kind) + handle)
    try:
        way = os.open(mount_point, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = syscall("open_by_handle_at", way, address_of(packed), os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(way)
    try:
        path = os.readlink(f"/proc/self/fd/{found}")
        wanted, here = os.fstat(found), os.lstat(path)
        return path if (wanted.st_dev, wanted.st_ino) == (here.st_dev, here.st_ino) else None
    except OSError:
        return None
    finally:
        os.close(found)
