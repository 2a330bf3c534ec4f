import mmap
import os
import struct

import pytest

from core.kernel.mapping_watch import FULL_BYTES, Happened, MappingWatch, parse_cpus, parse_records
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.memory.witness import PageWitness
from tests.requires import require_root


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("IHH", kind, 0, 8 + len(body)) + body


def parsed(content: bytes) -> Happened:
    found = Happened(set(), set())
    parse_records(content, found)
    return found


@pytest.mark.parametrize(("text", "cpus"), [("0", [0]), ("0-2", [0, 1, 2]), ("0-1,4,6-7", [0, 1, 4, 6, 7])])
def test_a_list_of_cpus_is_understood(text: str, cpus: list[int]) -> None:
    assert parse_cpus(text) == cpus


def test_mappings_of_files_and_forks_are_told_and_threads_are_not() -> None:
    mapped = struct.pack("IIQQQIIQQII8s", 7, 8, 0x1000, 0x2000, 0, 0, 1, 99, 0, 3, 1, b"/memfd:x")
    anonymous = struct.pack("IIQQQIIQQII8s", 7, 8, 0x1000, 0x2000, 0, 0, 0, 0, 0, 3, 1, b"//anon")
    child, thread = struct.pack("IIIIQ", 12, 7, 12, 8, 0), struct.pack("IIIIQ", 7, 7, 13, 8, 0)
    found = parsed(record(10, mapped) + record(7, child) + record(10, anonymous) + record(7, thread))
    assert (found.mapped, found.forked, found.unknown) == ({((os.makedev(0, 1), 99), 7)}, {7}, False)


@pytest.mark.parametrize("content", [record(2, bytes(16)), struct.pack("IHH", 7, 0, 0), bytes(FULL_BYTES + 8)])
def test_records_that_were_lost_are_no_secret(content: bytes) -> None:
    assert parsed(content).unknown


def test_a_mapping_that_is_gone_again_and_a_child_that_has_ended_are_told() -> None:
    require_root()
    fd = os.memfd_create("watched")
    os.ftruncate(fd, PAGE_SIZE)
    inode = (os.fstat(fd).st_dev, os.fstat(fd).st_ino)
    with MappingWatch() as watch:
        watch.read()
        mmap.mmap(fd, PAGE_SIZE).close()
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        found = watch.read()
        assert found.unknown or ((inode, os.getpid()) in found.mapped and os.getpid() in found.forked)
    os.close(fd)


def test_a_page_that_was_taken_out_of_a_file_is_told_until_it_is_met_anew() -> None:
    require_root()
    fd = os.memfd_create("witnessed")
    os.ftruncate(fd, 16 * PAGE_SIZE)
    everything, punched = Ranges(((0, 8 * PAGE_SIZE),)), Ranges(((2 * PAGE_SIZE, 3 * PAGE_SIZE),))
    os.pwrite(fd, bytes(8 * PAGE_SIZE), 0)
    with mmap.mmap(fd, 16 * PAGE_SIZE) as memory:
        witness = PageWitness(fd, 16 * PAGE_SIZE)
        assert witness.keeps(everything) == EMPTY
        witness.meet(everything)
        assert witness.keeps(everything) == everything
        memory[5 * PAGE_SIZE] = 1
        assert witness.keeps(everything) == everything
        memory.madvise(mmap.MADV_REMOVE, 2 * PAGE_SIZE, PAGE_SIZE)
        assert memory[2 * PAGE_SIZE] == 0  # there is another page now
        assert witness.keeps(everything) == everything.subtract(punched)
        witness.meet(everything)
        assert witness.keeps(everything) == everything.subtract(punched)
        witness.meet(everything, punched)
        assert witness.keeps(everything) == everything
        os.ftruncate(fd, 4 * PAGE_SIZE)
        os.ftruncate(fd, 16 * PAGE_SIZE)
        assert witness.keeps(everything) == Ranges(((0, 4 * PAGE_SIZE),))
        witness.close()
    os.close(fd)
