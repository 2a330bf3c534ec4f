"""Pages into and out of files of raw pages, in bulk: checksums, holes for zero pages, filling of fresh memory.

Owns the calls into core/native/pages.c; what lies where is core.images'.
"""

import os
from dataclasses import dataclass

from core.kernel.process_vm import Buffer
from core.native._kernel import ffi, lib

PAGE = 4096
CRC_BYTES = 4


def page_crcs(memory: Buffer) -> bytes:
    """CRC-32C of each page of `memory`, four bytes each, little-endian."""
    crcs = ffi.new("unsigned int[]", len(memory) // PAGE)
    lib.mg_page_crcs(ffi.from_buffer("unsigned char[]", memory), len(memory) // PAGE, crcs)
    return bytes(ffi.buffer(crcs))


def store_pages(fd: int, offset: int, memory: Buffer) -> bytes:
    """Write `memory` to `fd` at `offset`, zero pages as holes; their checksums as page_crcs has them. OSError."""
    crcs = ffi.new("unsigned int[]", len(memory) // PAGE)
    source = ffi.from_buffer("unsigned char[]", memory)
    error = lib.mg_store_pages(fd, offset, source, len(memory) // PAGE, crcs)
    if error:
        raise OSError(-error, os.strerror(-error))
    return bytes(ffi.buffer(crcs))


@dataclass(frozen=True, slots=True)
class FillTarget:
    """Where pages go: /proc/PID/mem of a stopped process and, for memory where nothing is yet, a userfaultfd of its mm
    that is registered for missing pages there (-1: none). With mem_fd -1 pages are only checked; with `punched`, one
    that is all zero passes. `shared`: pages that are there already stay, so that who shares them goes on to.
    """

    mem_fd: int = -1
    uffd: int = -1
    punched: bool = False
    shared: bool = False


NOWHERE = FillTarget()
SUPERSEDED = FillTarget(punched=True)


def fill_pages(target: FillTarget, pages_fd: int, offset: int, size: int, address: int, crcs: bytes | None) -> int:
    """Copy pages of a file into a process, each compared with its checksum before.

    Returns the bytes filled; fewer than `size`: the next page fails its checksum. OSError: ENODATA the file ends
    before, else why the memory could not be written.
    """
    expected = ffi.from_buffer("unsigned int[]", crcs) if crcs is not None else ffi.NULL
    way = (pages_fd, target.mem_fd, target.uffd, target.punched, target.shared)
    fill = ffi.new("struct mg_fill *", (*way, offset, address, size, expected))
    error = ffi.new("int *")
    done = int(lib.mg_fill_pages(fill, error))
    if error[0] and error[0] != lib.MG_BAD_CHECKSUM:
        raise OSError(error[0], os.strerror(error[0]))
    return done


def differing_pages(one: Buffer, other: Buffer) -> list[int]:
    """Indices of the pages in which two buffers of the same size differ."""
    count = len(one) // PAGE
    differing = ffi.new("int[]", max(1, count))
    buffers = (ffi.from_buffer("unsigned char[]", one), ffi.from_buffer("unsigned char[]", other))
    found = lib.mg_differing_pages(*buffers, count, differing)
    return list(differing[0:found])
