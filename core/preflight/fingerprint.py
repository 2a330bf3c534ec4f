"""What a file's content is, short enough to compare between hosts: an ELF build id, or a SHA-256."""

import hashlib
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

ELF_MAGIC: Final = b"\x7fELF"
ELFCLASS32, ELFCLASS64 = 1, 2
PT_NOTE: Final = 4
NT_GNU_BUILD_ID: Final = 3
NOTES_AT_MOST: Final = 1 << 16
THREADS: Final = 2
T = TypeVar("T")
Version = tuple[int, int, int, int]  # of a file: device, inode, size, time of its last change


def parse_build_id(notes: bytes) -> str:
    """The GNU build id in a PT_NOTE segment, in hex; "" when there is none. Source: elf(5)."""
    position = 0
    while position + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, position)
        name_at = position + 12
        at = name_at + (name_size + 3 & ~3)
        if kind == NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0":
            return notes[at : at + size].hex()
        position = at + (size + 3 & ~3)
    return ""


def find_build_id(read: Callable[[int, int], bytes]) -> str:
    """Build id of the ELF file of which `read(offset, size)` gives pieces; "" for any other file and one without."""
    header = read(0, 64)
    if len(header) < 64 or not header.startswith(ELF_MAGIC) or header[4] != ELFCLASS64:
        return ""
    table_at = struct.unpack_from("<Q", header, 32)[0]
    entry_size, count = struct.unpack_from("<HH", header, 54)
    table = read(table_at, entry_size * count)
    for start in range(0, len(table) - 55, entry_size or 56):
        kind, _flags, offset, _address, _physical, size = struct.unpack_from("<IIQQQQ", table, start)
        if kind == PT_NOTE and (found := parse_build_id(read(offset, min(size, NOTES_AT_MOST)))):
            return found
    return ""


def read_build_id(path: str) -> str:
    """Build id of an ELF file; OSError when it cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return find_build_id(lambda offset, size: os.pread(fd, size, offset))
    finally:
        os.close(fd)


def read_elf_class(path: str) -> int:
    """ELFCLASS32 or ELFCLASS64; 0 for what is not ELF."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = os.pread(fd, 5, 0)
    finally:
        os.close(fd)
    return header[4] if len(header) == 5 and header.startswith(ELF_MAGIC) else 0


def read_sha256(path: str) -> bytes:
    """Hash of a file's content; OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Fingerprints:
    """Hashes files, several at a time, each content once: a file that looks unchanged is not read again."""

    def __init__(self) -> None:
        self._hashes: dict[Version, bytes] = {}
        self._build_ids: dict[Version, str] = {}

    def sha256(self, paths: list[str]) -> dict[str, bytes]:
        """Hash of each path; those that cannot be read are left out."""
        if not paths:
            return {}
        with ThreadPoolExecutor(THREADS) as pool:
            hashes = pool.map(lambda path: _read_once(self._hashes, path, read_sha256), paths)
            return {path: digest for path, digest in zip(paths, hashes, strict=True) if digest is not None}

    def build_id(self, path: str) -> str:
        """Build id of an ELF file; "" for any other, and where it cannot be read."""
        return _read_once(self._build_ids, path, read_build_id) or ""


def _read_once(known: dict[Version, T], path: str, read: Callable[[str], T]) -> T | None:
    """None where it cannot be read."""
    try:
        found = os.stat(path)
        version = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        if version not in known:
            known[version] = read(path)
        return known[version]
    except OSError:
        return None
