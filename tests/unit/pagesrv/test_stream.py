import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import PageStreamError
from core.memory.ranges import PAGE_SIZE, Ranges
from migrate.pagesrv.filters import CompressMode
from migrate.pagesrv.frames import HEAD, Compression, FrameKind, encode_frame
from migrate.pagesrv.receiver import PageReceiver
from migrate.pagesrv.sender import PageSender, RoundCount
from tests.unit.pagesrv.streams import FakeReader, RecordedLanding

RANDOM = random.Random(1)
ZERO = bytes(PAGE_SIZE)
KINDS = {"zero": ZERO, "text": b"abcdefgh" * 512, "noise": RANDOM.randbytes(PAGE_SIZE)}
page_sets = st.dictionaries(
    st.integers(1, 200).map(lambda page: page * PAGE_SIZE), st.sampled_from(list(KINDS.values())), max_size=40
)


def pages_of(count: int, first: int = 0x10000) -> dict[int, bytes]:
    return {first + index * PAGE_SIZE: RANDOM.randbytes(PAGE_SIZE) for index in range(count)}


def ranges_of(pages: dict[int, bytes]) -> Ranges:
    return Ranges.from_pages(address // PAGE_SIZE for address in pages)


def sent(path: Path, pages: dict[int, bytes], mode: CompressMode = "auto") -> tuple[bytes, RoundCount]:
    """One round's stream of the pages as mm 7, and what end_round said."""
    with path.open("w+b", buffering=0) as file:
        sender = PageSender(file.fileno(), mode)
        sender.send_round(1, 7, FakeReader(pages), ranges_of(pages))
        total = sender.end_round(1)
        file.seek(0)
        return file.read(), total


def received(path: Path, stream: bytes, landing: RecordedLanding, round: int = 1) -> RoundCount:
    path.write_bytes(stream)
    with path.open("rb", buffering=0) as file:
        return PageReceiver(file.fileno(), landing).run_until_round_end(round)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stream"


same_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@same_path
@given(pages=page_sets, mode=st.sampled_from(["auto", "zstd", "none"]))
def test_every_page_lands_as_it_was_and_both_sides_count_the_same(
    path: Path, pages: dict[int, bytes], mode: CompressMode
) -> None:
    stream, told = sent(path, pages, mode)
    landing = RecordedLanding()
    got = received(path, stream, landing)
    assert landing.pages == {(7, address): content for address, content in pages.items()}
    assert (got.frames, got.pages, got.raw_bytes, got.zero_pages) == (
        told.frames, told.pages, told.raw_bytes, told.zero_pages,
    )  # fmt: skip
    assert told.zero_pages == sum(content == ZERO for content in pages.values())
    assert told.pages == len(pages)


@same_path
@given(data=st.data(), mode=st.sampled_from(["zstd", "none"]))
def test_a_damaged_stream_is_an_error_and_lands_nothing_false(
    path: Path, data: st.DataObject, mode: CompressMode
) -> None:
    pages = data.draw(page_sets.filter(bool))
    stream = bytearray(sent(path, pages, mode)[0])
    if data.draw(st.booleans(), "truncate"):
        del stream[data.draw(st.integers(0, len(stream) - 1)) :]
    else:
        bit = data.draw(st.integers(0, len(stream) * 8 - 1))
        stream[bit // 8] ^= 1 << bit % 8
    landing = RecordedLanding()
    with pytest.raises(PageStreamError, match=r"frame \d+ at byte \d+: "):
        received(path, bytes(stream), landing)
    assert landing.pages.items() <= {(7, address): content for address, content in pages.items()}.items()


def test_a_lost_frame_is_found_at_the_end_of_the_round(path: Path) -> None:
    pages = pages_of(2)
    stream, _ = sent(path, pages, "none")
    whole, _ = sent(path, {}, "none")
    frame_size = HEAD.size + 12 + 2 * PAGE_SIZE
    assert len(stream) == frame_size + len(whole)
    with pytest.raises(PageStreamError, match="the round came to"):
        received(path, stream[frame_size:], RecordedLanding())


def test_a_frame_of_another_round_is_refused(path: Path) -> None:
    with pytest.raises(PageStreamError, match="frame of round 1 in round 2"):
        received(path, sent(path, pages_of(1))[0], RecordedLanding(), round=2)


def test_an_end_between_frames_is_an_error_too(path: Path) -> None:
    with pytest.raises(PageStreamError, match="frame 1 at byte 0: the stream ended after 0 of"):
        received(path, b"", RecordedLanding())


@pytest.mark.parametrize("claimed", [2 * PAGE_SIZE, 512 * PAGE_SIZE])
def test_a_zstd_payload_of_another_size_than_claimed_is_refused(path: Path, claimed: int) -> None:
    import zstandard

    payload = zstandard.ZstdCompressor(write_checksum=True).compress(ZERO)
    runs = Ranges.of([(0x10000, 0x10000 + claimed)])
    frame = encode_frame(
        FrameKind.DATA, round=1, runs=runs, payload=payload, raw_size=claimed, compression=Compression.ZSTD
    )
    with pytest.raises(PageStreamError, match="frame 1 at byte 0: cannot decompress"):
        received(path, frame + payload, RecordedLanding())


def test_a_landing_that_fails_names_frame_memory_and_cause(path: Path) -> None:
    class Nowhere(RecordedLanding):
        def land(self, mm_id: int, runs: Ranges, memory: object) -> None:
            raise OSError(5, "Input/output error")

    with pytest.raises(PageStreamError, match="frame 1 at byte 0: cannot land its pages in memory 7: Input/output"):
        received(path, sent(path, pages_of(1))[0], Nowhere())


def test_missing_pages_are_told_and_not_sent(path: Path) -> None:
    pages = pages_of(3)
    with path.open("wb", buffering=0) as file:
        wanted = ranges_of(pages).union(Ranges.of([(0x90000, 0x92000)]))
        count = PageSender(file.fileno(), "none").send_round(1, 7, FakeReader(pages), wanted)
    assert (count.pages, count.missing.spans) == (3, ((0x90000, 0x92000),))


def test_a_reader_on_the_far_side_that_is_gone_is_a_stream_error() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with pytest.raises(PageStreamError, match="cannot send: Broken pipe"):
        PageSender(write_fd).send_round(1, 7, FakeReader(pages_of(1)), ranges_of({0x10000: ZERO}))
    os.close(write_fd)


def test_progress_is_told_after_every_batch_and_can_stop_the_round(path: Path) -> None:
    pages, told = pages_of(12), []

    def stop_at_eight(done: int, sent_bytes: int) -> None:
        told.append(done)
        if done == 8:
            raise KeyboardInterrupt

    with path.open("wb", buffering=0) as file, pytest.raises(KeyboardInterrupt):
        PageSender(file.fileno()).send_round(1, 7, FakeReader(pages), ranges_of(pages), stop_at_eight)
    assert told == [4, 8]
