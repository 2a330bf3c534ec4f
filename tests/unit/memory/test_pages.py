import ctypes
import mmap
import os
import subprocess

import pytest

from core.errors import TraceeError
from core.kernel.calls import syscall
from core.kernel.process_vm import crc32c
from core.memory.pages import PageBatch, ReadPageReader, drop_zero, land, land_zero, open_landing
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from tests.unit.memory.area import PROT_NONE, area, map_at


def read_all(ranges: Ranges, **options: int) -> tuple[dict[int, bytes], Ranges]:
    with ReadPageReader(os.getpid(), **options) as reader:
        found = {start: bytes(memory) for start, memory in reader.read(ranges)}
        return found, reader.missing


def test_runs_come_back_with_their_bytes_whatever_the_batch_size() -> None:
    with area(40) as memory:
        memory.fill(3)
        ranges = Ranges.of([memory.span(0, 1), memory.span(5, 30), memory.span(39, 40)])
        for batch_bytes in (PAGE_SIZE, 7 * PAGE_SIZE, 1 << 20):
            found, missing = read_all(ranges, batch_bytes=batch_bytes)
            assert missing == EMPTY
            assert Ranges.ordered((start, start + len(data)) for start, data in found.items()) == ranges
            assert all(data == ctypes.string_at(start, len(data)) for start, data in found.items())


def test_pages_without_any_protection_are_read() -> None:
    with area(8) as memory:
        memory.fill(3)
        expected = memory.bytes(0, 8)
        syscall("mprotect", memory.page(2), 3 * PAGE_SIZE, PROT_NONE)
        found, missing = read_all(Ranges.of([memory.span(0, 8)]))
        assert (found, missing) == ({memory.start: expected}, EMPTY)


def test_pages_that_have_gone_are_missing_and_the_others_read() -> None:
    with area(8) as memory:
        memory.fill(3)
        ranges = Ranges.of([memory.span(0, 4), memory.span(5, 8)])
        syscall("munmap", memory.page(1), 2 * PAGE_SIZE)
        syscall("munmap", memory.page(7), PAGE_SIZE)
        found, missing = read_all(ranges)
        assert missing.spans == (memory.span(1, 3), memory.span(7, 8))
        assert found == {memory.page(first): memory.bytes(first, last) for first, last in ((0, 1), (3, 4), (5, 7))}
        map_at(memory.page(1), 2)
        map_at(memory.page(7), 1)


def test_more_runs_than_one_call_takes_are_all_read() -> None:
    with area(5000) as memory:
        memory.fill(3)
        ranges = Ranges.of(memory.span(index, index + 1) for index in range(0, 5000, 2))
        found, _ = read_all(ranges)
        assert len(found) == 2500
        assert all(data == ctypes.string_at(start, len(data)) for start, data in found.items())


def test_batches_in_use_are_not_overwritten() -> None:
    with area(8) as memory, ReadPageReader(os.getpid(), batch_bytes=PAGE_SIZE, buffers=2) as reader:
        memory.fill(3)
        batches = reader.batches(Ranges.of([memory.span(0, 8)]))
        first, second = next(batches), next(batches)
        assert bytes(first.memory) == memory.bytes(0, 1)
        assert bytes(second.memory) == memory.bytes(1, 2)


def test_a_process_that_is_gone_is_an_error_and_not_missing_pages() -> None:
    child = subprocess.Popen(["sleep", "60"])
    with ReadPageReader(child.pid) as reader:
        child.kill()
        child.wait()
        with pytest.raises(TraceeError, match=f"pid {child.pid}: cannot read memory"):
            list(reader.read(Ranges.of([(0x400000, 0x401000)])))


@pytest.mark.parametrize("protection", [PROT_NONE, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_EXEC])
def test_pages_land_in_mappings_that_cannot_be_written(protection: int) -> None:
    with area(4) as memory:
        syscall("mprotect", memory.start, 4 * PAGE_SIZE, protection)
        mem_fd = open_landing(os.getpid())
        runs = Ranges.of([memory.span(0, 1), memory.span(2, 4)])
        content = bytes(range(1, 256)) * 49
        land(mem_fd, runs, content[: 3 * PAGE_SIZE])
        land_zero(mem_fd, Ranges.of([memory.span(3, 4)]))
        os.close(mem_fd)
        found, _ = read_all(runs)
        assert found[memory.start] == content[:PAGE_SIZE]
        assert found[memory.page(2)] == content[PAGE_SIZE : 2 * PAGE_SIZE] + bytes(PAGE_SIZE)


def test_pages_land_in_a_private_file_mapping_and_not_in_the_file(tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "file"), "w+b") as file:
        file.write(b"x" * PAGE_SIZE)
        file.flush()
        with area(1, fd=file.fileno(), flags=mmap.MAP_PRIVATE) as memory:
            syscall("mprotect", memory.start, PAGE_SIZE, mmap.PROT_READ)
            mem_fd = open_landing(os.getpid())
            land(mem_fd, Ranges.of([memory.span(0, 1)]), b"y" * PAGE_SIZE)
            os.close(mem_fd)
            assert memory.bytes(0, 1) == b"y" * PAGE_SIZE
        file.seek(0)
        assert file.read() == b"x" * PAGE_SIZE


def test_landing_where_nothing_is_mapped_fails() -> None:
    with area(2) as memory:
        syscall("munmap", memory.page(1), PAGE_SIZE)
        mem_fd = open_landing(os.getpid())
        with pytest.raises(OSError, match="after 4096 of 8192 bytes"):
            land(mem_fd, Ranges.of([memory.span(0, 2)]), bytes(2 * PAGE_SIZE))
        os.close(mem_fd)
        map_at(memory.page(1), 1)


def test_zero_pages_are_taken_out_and_the_others_kept_in_order() -> None:
    pages = [b"a" * PAGE_SIZE, bytes(PAGE_SIZE), bytes(PAGE_SIZE - 1) + b"b", bytes(PAGE_SIZE), b"c" * PAGE_SIZE]
    runs = Ranges.of([(0, 3 * PAGE_SIZE), (0x10000, 0x12000)])
    batch, zero = drop_zero(PageBatch(runs, memoryview(bytearray(b"".join(pages)))))
    assert bytes(batch.memory) == pages[0] + pages[2] + pages[4]
    assert batch.runs == runs.subtract(zero)
    assert zero.spans == ((PAGE_SIZE, 2 * PAGE_SIZE), (0x10000, 0x11000))


def test_crc32c_has_the_published_check_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283
    assert crc32c(b"") == 0
