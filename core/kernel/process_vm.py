"""Bulk reads and writes of another process's memory: process_vm_readv and /proc/PID/mem; hashes of pages read.

Owns the calls and their error text; batching and buffers are core.memory's.
"""

import os
from array import array

from core.kernel.pagemap_scan import Spans, span_array
from core.native._kernel import ffi, lib

Buffer = bytes | bytearray | memoryview
SpanList = list[tuple[int, int]]


def open_mem(pid: int, *, write: bool = False) -> int:
    """A descriptor of /proc/PID/mem; it stays with the mm the process has now (an exec makes another)."""
    return os.open(f"/proc/{pid}/mem", (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def spans_of(records: ffi.CData, count: int) -> SpanList:
    """The first `count` of C's spans."""
    words = array("Q", bytes(ffi.buffer(records, count * 16)))
    return list(zip(words[0::2], words[1::2], strict=True))


def _page_count(spans: Spans) -> int:
    return sum(end - start for start, end in spans) // 4096


def read_spans(pid: int, mem_fd: int, spans: Spans, buffer: bytearray | memoryview) -> tuple[int, SpanList]:
    """Fill `buffer` with the pages of the spans, back to back: (bytes read, spans that could not be read).

    `pid` 0: by `mem_fd` alone, slower, but pages that are shared since a fork stay so (process_vm_readv unshares).
    Unreadable pages (not mapped any more, I/O error) are left out of the buffer. OSError ESRCH: the process is gone.
    """
    if sum(end - start for start, end in spans) > len(buffer):
        raise ValueError("buffer too small for the spans")
    missing = ffi.new("struct mg_span[]", _page_count(spans))
    missing_count = ffi.new("int *")
    target = ffi.from_buffer("unsigned char[]", buffer, require_writable=True)
    result = lib.mg_read_spans(pid, mem_fd, span_array(spans), len(spans), target, missing, missing_count)
    return _check(result, f"read memory of {pid}"), spans_of(missing, missing_count[0])


def write_spans(mem_fd: int, spans: Spans, memory: Buffer) -> None:
    """Write `memory`, back to back, to the spans; works on read-only and PROT_NONE private mappings too."""
    if sum(end - start for start, end in spans) != len(memory):
        raise ValueError("memory and spans differ in size")
    error = ffi.new("int *")
    source = ffi.from_buffer("unsigned char[]", memory)
    written = lib.mg_write_spans(mem_fd, span_array(spans), len(spans), source, error)
    _check(-error[0], f"write memory after {written} of {len(memory)} bytes")


def zero_spans(mem_fd: int, spans: Spans) -> None:
    """Write zeros to the spans."""
    error = ffi.new("int *")
    lib.mg_zero_spans(mem_fd, span_array(spans), len(spans), error)
    _check(-error[0], "write zeros to memory")


def drop_zero_pages(buffer: bytearray | memoryview, spans: Spans) -> tuple[int, SpanList, SpanList]:
    """Move the pages that are not all zero together: (bytes kept, their spans, the zero pages' spans)."""
    pages = _page_count(spans)
    kept, zero = ffi.new("struct mg_span[]", pages), ffi.new("struct mg_span[]", pages)
    counts = ffi.new("int[2]")
    memory = ffi.from_buffer("unsigned char[]", buffer, require_writable=True)
    size = lib.mg_drop_zero_pages(memory, span_array(spans), len(spans), kept, counts, zero, counts + 1)
    return size, spans_of(kept, counts[0]), spans_of(zero, counts[1])


def crc32c(memory: Buffer, crc: int = 0) -> int:
    """CRC-32C of `memory`, continuing from `crc`."""
    return int(lib.mg_crc32c(crc, ffi.from_buffer("unsigned char[]", memory), len(memory)))


def make_hash_key() -> "array[int]":
    """A random key for hash_pages."""
    return array("Q", os.urandom(lib.MG_HASH_KEY_WORDS * 8))


def hash_pages(memory: Buffer, key: "array[int]") -> "array[int]":
    """A 64-bit hash of every page of `memory`, never 0; see mg_hash_pages for what it is worth."""
    hashes = array("Q", bytes(len(memory) // 4096 * 8))
    target = ffi.from_buffer("unsigned long long[]", hashes, require_writable=True)
    source = ffi.from_buffer("unsigned char[]", memory)
    lib.mg_hash_pages(source, len(hashes), ffi.from_buffer("unsigned long long[]", key), target)
    return hashes
