"""Contexts of io_setup(2): the kernel's own count tells what is in flight; rings are as long as we say."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.errors import KernelLacks
from core.kernel import btf
from core.kernel.aio import (
    Context,
    events_of,
    free_requests,
    idle_references,
    length_for,
    open_contexts,
    requests_for,
    shortest_ring,
)
from core.kernel.calls import address_of, syscall
from core.proc.reader import ProcReader
from tests.waiting import wait_until

POLL, POLLIN = 5, 1


@contextmanager
def context(requests: int) -> Iterator[int]:
    id = bytearray(8)
    syscall("io_setup", requests, address_of(id))
    try:
        yield int.from_bytes(id, "little")
    finally:
        syscall("io_destroy", int.from_bytes(id, "little"))


def seen(id: int) -> Context:
    with open_contexts() as contexts:
        return next(one for one in contexts.read(os.getpid()) if one.id == id)


def room_of(id: int) -> int:
    """`nr` of struct aio_ring."""
    descriptor = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        return int.from_bytes(os.pread(descriptor, 4, id + 4), "little")
    finally:
        os.close(descriptor)


def test_requests_in_flight_are_counted_until_their_event_is_there() -> None:
    idle = idle_references()
    reading, writing = os.pipe()
    request = bytearray(struct.pack("<QIiHhIQQqQII", 1, 0, 0, POLL, 0, reading, POLLIN, 0, 0, 0, 0, 0))
    pointers = struct.pack("<2Q", *[address_of(request)] * 2)
    with context(7) as id, context(1) as other:
        assert seen(id) == Context(id, 7, idle, waits=False)
        assert syscall("io_submit", id, 2, address_of(pointers)) == 2
        assert seen(id) == Context(id, 7, idle + 2, waits=True)
        assert seen(other) == Context(other, 1, idle, waits=False)
        os.write(writing, b"x")
        wait_until(lambda: seen(id).references == idle, "both have ended")
        assert not seen(id).waits
    os.close(reading)
    os.close(writing)


def test_a_process_without_contexts_has_none_and_one_that_is_gone_is_an_error() -> None:
    with open_contexts() as contexts:
        assert contexts.read(os.getppid()) == []
        with pytest.raises(FileNotFoundError):
            contexts.read(1 << 30)


@pytest.mark.parametrize("requests", [1, 62, 63, 126, 127, 1000])
def test_the_length_of_a_ring_is_foretold(requests: int) -> None:
    free = free_requests()
    with context(requests) as id:
        ring = next(vma for vma in ProcReader().maps(os.getpid()) if vma.start == id)
        assert ring.is_aio_ring
        assert ring.size == max(length_for(requests), shortest_ring())
        assert events_of(ring.size) == room_of(id)
        assert free_requests() <= free - requests


@pytest.mark.parametrize("pages", range(1, 9))
def test_the_least_that_makes_a_ring_makes_it_and_one_less_does_not(pages: int) -> None:
    least = requests_for(pages * 4096)
    assert length_for(least) == pages * 4096
    assert pages == 1 or length_for(least - 1) == (pages - 1) * 4096


def test_a_struct_or_field_that_this_kernel_lacks_is_told() -> None:
    with pytest.raises(KernelLacks, match="no_such_struct"):
        btf.read_offsets({"no_such_struct": ("x",)})
    with pytest.raises(KernelLacks, match="kioctx"):
        btf.read_offsets({"kioctx": ("no_such_field",)})


@pytest.mark.parametrize(
    "content", [b"", b"x" * 7, b"x" * 100, struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 99, 0, 9)]
)
def test_what_is_no_btf_is_told(content: bytes) -> None:
    with pytest.raises((LookupError, ValueError, struct.error)):
        btf.parse_layout(content, {"kioctx": ("reqs",)})
