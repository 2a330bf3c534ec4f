"""Pages of this process through a socket into the memory of another one at the same addresses."""

import os
import random
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from core.errors import PageStreamError
from core.memory.landing import LandingMemory
from core.memory.pages import ReadPageReader
from core.memory.present import PageSets, present_ranges, private_vmas, read_page_sets
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.proc.maps import parse_maps
from migrate.pagesrv.lander import PageLander
from migrate.pagesrv.receiver import PageReceiver
from migrate.pagesrv.sender import PageSender
from tests.unit.memory.area import Area, area


@contextmanager
def skeleton() -> Iterator[int]:
    """A process with this one's memory of now, that does nothing."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_fd)
        os.read(read_fd, 1)
        os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_fd)
        os.close(write_fd)


def send_to(pid: int, ranges: Ranges, anonymous: Ranges = EMPTY, zero: Ranges = EMPTY, mm_id: int = 1) -> None:
    """One round of our pages into the skeleton, as mm 1."""
    ours, theirs = socket.socketpair()
    memory = LandingMemory(pid, anonymous)
    with ours, theirs, ThreadPoolExecutor(1) as pool, ReadPageReader(os.getpid()) as reader:
        landed = pool.submit(PageReceiver(theirs.fileno(), PageLander({1: memory})).run_until_round_end, 1)
        sender = PageSender(ours.fileno())
        sender.send_round(1, mm_id, reader, ranges, zero=zero)
        total = sender.end_round(1)
        assert landed.result(30).pages == total.pages
    memory.close()


def pages_in(pid: int, memory: Area) -> PageSets:
    with open(f"/proc/{pid}/maps") as maps:
        vmas = [vma for vma in parse_maps(maps.read()) if memory.start <= vma.start and vma.end <= memory.end]
    return read_page_sets(pid, private_vmas(vmas))


def content_of(pid: int, span: tuple[int, int]) -> bytes:
    with ReadPageReader(pid) as reader:
        return b"".join(bytes(part) for _, part in reader.read(Ranges((span,))))


def test_pages_land_in_another_process_and_holes_stay_holes() -> None:
    with area(600) as memory, skeleton() as pid:
        memory.fill(5, 10, 300)
        memory.fill(9, 599)
        for index in range(20, 40):
            for offset in range(0, PAGE_SIZE, 8):
                _store_word(memory.page(index) + offset, random.getrandbits(63))
        send_to(pid, present_ranges(os.getpid(), memory.vmas), Ranges((memory.span(0, 600),)))
        assert pages_in(pid, memory).carried.spans == (memory.span(10, 300), memory.span(599, 600))
        assert content_of(pid, memory.span(10, 300)) == memory.bytes(10, 300)


def _store_word(address: int, value: int) -> None:
    import ctypes

    ctypes.c_uint64.from_address(address).value = value


def test_zero_pages_overwrite_what_is_there_and_allocate_nothing_elsewhere() -> None:
    with area(16) as memory:
        memory.fill(5, 0, 2)
        with skeleton() as pid:
            everything = Ranges((memory.span(0, 16),))
            send_to(pid, EMPTY, everything, zero=everything)
            assert content_of(pid, memory.span(0, 2)) == bytes(2 * PAGE_SIZE)
            assert pages_in(pid, memory).carried.spans == (memory.span(0, 2),)


def test_zero_pages_are_written_where_a_missing_page_is_not_zero(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "file")
    with open(path, "w+b") as file:
        file.write(b"x" * PAGE_SIZE)
        file.flush()
        with area(1, fd=file.fileno(), flags=2) as memory, skeleton() as pid:
            send_to(pid, EMPTY, zero=Ranges((memory.span(0, 1),)))
            assert content_of(pid, memory.span(0, 1)) == bytes(PAGE_SIZE)


def test_pages_of_a_memory_that_nobody_prepared_are_refused() -> None:
    with area(1) as memory, skeleton() as pid:
        memory.fill(5)
        with pytest.raises(PageStreamError, match="in memory 2: no skeleton was prepared"):
            send_to(pid, Ranges((memory.span(0, 1),)), mm_id=2)
