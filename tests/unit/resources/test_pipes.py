import fcntl
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.images import kinds
from core.plan.ops import FdAllocator
from core.plan.placement import Wanted, place
from core.resources import file_table
from tests.unit.resources.local_executor import READER, LocalTask, restored_task, source_task

MEBIBYTE = 1 << 20


def read_all(task: LocalTask, fd: int, size: int) -> bytes:
    ours = task.duplicate(fd)
    try:
        parts = []
        while size:
            parts.append(os.read(ours, size))
            size -= len(parts[-1])
        return b"".join(parts)
    finally:
        os.close(ours)


def pipe_states(task: LocalTask) -> dict[int, int]:
    return {fd: task.info(fd).flags for fd in task.fds()}


def test_content_comes_along_and_stays_at_the_source() -> None:
    def setup() -> None:
        _, writing = os.pipe()
        os.write(writing, b"first")
        os.write(writing, b"second")

    with source_task(setup) as source:
        images = source.collect()
        assert read_all(source, 0, 11) == b"firstsecond"
        with restored_task(images) as restored:
            assert read_all(restored, 0, 11) == b"firstsecond"


def test_a_full_large_pipe_keeps_size_and_content() -> None:
    content = os.urandom(MEBIBYTE)

    def setup() -> None:
        _, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, MEBIBYTE)
        os.set_blocking(writing, False)
        assert os.write(writing, content) == MEBIBYTE

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert pipe_states(restored) == pipe_states(source)
        assert read_all(restored, 0, MEBIBYTE) == content


def test_content_in_many_small_pieces_fits_again() -> None:
    """Spliced pieces take a page of the pipe each, so 16 bytes fill it."""

    def setup() -> None:
        source_reading, source_writing = os.pipe()
        _, writing = os.pipe()
        os.set_blocking(writing, False)
        for letter in b"abcdefghijklmnop":
            os.write(source_writing, bytes([letter]))
            os.splice(source_reading, writing, 1)
        with pytest.raises(BlockingIOError):
            os.write(writing, b"q" * 4096)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert read_all(restored, 2, 16) == b"abcdefghijklmnop"


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (5, 3), (3, 9), (1, 2), (2, 1), (0, 7)])
def test_ends_get_their_numbers_whatever_pipe2_gives(numbers: tuple[int, int]) -> None:
    def setup() -> None:
        reading, writing = (fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in os.pipe())
        os.write(writing, b"content")
        os.closerange(0, 20)
        os.dup2(reading, numbers[0])
        os.dup2(writing, numbers[1], inheritable=False)
        os.closerange(20, 30)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert pipe_states(restored) == pipe_states(source)
        assert read_all(restored, numbers[0], 7) == b"content"


def test_ends_opened_again_are_files_of_their_own() -> None:
    def setup() -> None:
        reading, writing = os.pipe()
        os.open(f"/proc/self/fd/{reading}", os.O_RDONLY | os.O_NONBLOCK)
        os.open(f"/proc/self/fd/{writing}", os.O_RDWR)
        os.open(f"/proc/self/fd/{writing}", os.O_WRONLY)
        os.write(writing, b"content")

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert pipe_states(restored) == pipe_states(source)
        assert len({restored.link(fd) for fd in restored.fds()}) == 1
        ours = restored.duplicate(4)
        os.write(ours, b" and more")
        os.close(ours)
        assert read_all(restored, 2, 16) == b"content and more"


@pytest.mark.parametrize("kept", [0, 1])
def test_an_end_whose_other_end_is_gone_stays_so(kept: int) -> None:
    def setup() -> None:
        ends = os.pipe()
        os.write(ends[1], b"last words")
        os.close(ends[1 - kept])

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert restored.fds() == [kept]
        ours = restored.duplicate(kept)
        try:
            if kept:
                with pytest.raises(BrokenPipeError):
                    os.write(ours, b"x")
            else:
                assert [os.read(ours, 100), os.read(ours, 100)] == [b"last words", b""]
        finally:
            os.close(ours)


@pytest.mark.parametrize(("kept", "reason"), [(0, "writes into"), (1, "reads")])
def test_an_end_whose_other_end_is_elsewhere_is_refused(kept: int, reason: str) -> None:
    ends = os.pipe()
    try:
        with source_task(lambda: None, keep=[ends[kept]]) as source, source.table() as table:
            (blocker,) = file_table.refuse(table)
            assert blocker.code == "fd-pipe-shared"
            assert f"another process {reason}" in blocker.reason
    finally:
        os.close(ends[0])
        os.close(ends[1])


def test_packets_keep_their_borders() -> None:
    def setup() -> None:
        _, writing = os.pipe2(os.O_DIRECT)
        for packet in (b"one", b"and another", b"3"):
            os.write(writing, packet)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        reading = restored.duplicate(0)
        try:
            assert [os.read(reading, 100) for _ in range(3)] == [b"one", b"and another", b"3"]
        finally:
            os.close(reading)


def test_the_other_holder_of_a_pipe_is_found() -> None:
    reading, writing = os.pipe()
    try:
        with source_task(lambda: None, keep=[reading, writing]) as source, source.table() as table:
            assert file_table.refuse(table) == []
            found = file_table.find_other_holders(table, [source.pid], READER)
            assert [blocker.code for blocker in found] == ["fd-shared"]
            assert f"process {os.getpid()} " in found[0].reason
    finally:
        os.close(reading)
        os.close(writing)


def test_the_image_says_size_and_amount() -> None:
    with source_task(lambda: os.write(os.pipe()[1], b"abc")) as source:
        images = source.collect()
    (record,) = images.records(kinds.PIPES_DATA)
    assert (record.message.bytes, record.message.size, record.payload) == (3, 65536, b"abc")


@settings(max_examples=300)
@given(st.lists(st.integers(0, 8), unique=True, min_size=2, max_size=6), st.data())
def test_placement_always_ends_with_the_wanted_numbers(numbers: list[int], data: st.DataObject) -> None:
    """Two files made together, as a pipe's ends, after some others; simulated on a table of names."""
    cut = data.draw(st.integers(1, len(numbers) - 1))
    below = data.draw(st.sets(st.integers(0, 8)).map(lambda found: found - set(numbers)))
    shares = {"r": numbers[:cut], "w": numbers[cut:]}
    fds = FdAllocator(set(below))
    table = {fd: "other" for fd in below}
    made = {}
    for name, wanted in shares.items():
        number = fds.take()
        table[number] = name
        made[number] = [Wanted(fd, fd % 2 == 0, name) for fd in wanted]
    for op in place(made, fds):
        run(op.name, [argument for argument in op.args if isinstance(argument, int)], table)
    assert table == {fd: name for name, wanted in shares.items() for fd in wanted} | {fd: "other" for fd in below}
    assert fds.used == set(table)


def run(name: str, args: list[int], table: dict[int, str]) -> None:
    if name == "close":
        del table[args[0]]
    elif name == "dup3":
        assert args[0] != args[1]
        assert table.get(args[1]) != "other"
        table[args[1]] = table[args[0]]
    elif args[1] == fcntl.F_DUPFD:
        assert args[2] not in table
        table[args[2]] = table[args[0]]
