import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import PageStreamError
from core.kernel.process_vm import crc32c
from core.memory.ranges import PAGE_SIZE, Ranges
from migrate.pagesrv.frames import (
    FRAME_VERSION,
    HEAD,
    MAGIC,
    MAX_RAW,
    MAX_RUNS,
    Compression,
    FrameHead,
    FrameKind,
    RoundCounts,
    StreamPlace,
    check_body,
    encode_frame,
    encode_round_end,
    parse_counts,
    parse_head,
    parse_runs,
)

PLACE = StreamPlace(3, 4711)
numbers = st.integers(0, 2**32 - 1)
run_sets = st.sets(st.integers(1, 2**30), min_size=1, max_size=30).map(Ranges.from_pages)


def head_bytes(**changed: int | bytes) -> bytes:
    """A good ZERO frame's head with some fields changed and the checksum right."""
    fields: dict[str, int | bytes] = {
        "magic": MAGIC, "version": FRAME_VERSION, "kind": FrameKind.ZERO, "compression": 0, "reserved": 0, "mm_id": 1,
        "round": 2, "n_runs": 1, "raw": 0, "stored": 0, "crc": 0,
    }  # fmt: skip
    head = HEAD.pack(*(fields | changed).values(), 0)[:-4]
    return head + crc32c(head).to_bytes(4, "little")


@given(numbers, numbers, run_sets)
def test_a_frame_is_read_as_it_was_written(round: int, mm_id: int, runs: Ranges) -> None:
    payload = bytes(runs.total)
    frame = encode_frame(FrameKind.DATA, round=round, mm_id=mm_id, runs=runs, payload=payload, raw_size=len(payload))
    head, run_list = parse_head(frame[: HEAD.size], PLACE), frame[HEAD.size :]
    assert (head.kind, head.round, head.mm_id) == (FrameKind.DATA, round, mm_id)
    check_body(head, run_list, payload, PLACE)
    assert parse_runs(head, run_list, PLACE) == runs


@given(run_sets, st.data())
def test_any_flipped_bit_of_a_frame_is_found(runs: Ranges, data: st.DataObject) -> None:
    payload = b"p" * runs.total
    frame = bytearray(encode_frame(FrameKind.DATA, round=1, runs=runs, payload=payload, raw_size=runs.total) + payload)
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PageStreamError):
        head = parse_head(frame[: HEAD.size], PLACE)
        end_of_runs = HEAD.size + head.runs_size
        check_body(head, frame[HEAD.size : end_of_runs], frame[end_of_runs:], PLACE)


@given(st.binary(min_size=HEAD.size, max_size=HEAD.size))
def test_no_bytes_at_all_make_another_error(head: bytes) -> None:
    with pytest.raises(PageStreamError, match="frame 3 at byte 4711: "):
        parse_head(head, PLACE)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"magic": b"\0\0\0\0"}, "not a page frame"),
        ({"version": 9}, f"version 9, we speak {FRAME_VERSION}"),
        ({"kind": 0}, "unknown kind 0"),
        ({"compression": 7}, "compression 7"),
        ({"reserved": 1}, "flag 1"),
        ({"n_runs": 0}, "sizes that a ZERO frame cannot have"),
        ({"n_runs": MAX_RUNS + 1}, f"{MAX_RUNS + 1} runs"),
        ({"stored": 1}, "ZERO"),
        ({"kind": FrameKind.DATA, "raw": 4096, "stored": 4097}, "DATA"),
        ({"kind": FrameKind.DATA, "raw": 4095, "stored": 4095}, "DATA"),
        ({"kind": FrameKind.DATA, "raw": MAX_RAW + 4096, "stored": MAX_RAW + 4096}, "DATA"),
        ({"kind": FrameKind.DATA, "raw": 4096, "stored": 2**31, "compression": Compression.ZSTD}, "DATA"),
        ({"kind": FrameKind.ROUND_END, "n_runs": 0, "mm_id": 0, "stored": 23}, "ROUND_END"),
    ],
)
def test_a_head_that_cannot_be_is_refused_with_its_reason(changed: dict[str, int | bytes], reason: str) -> None:
    with pytest.raises(PageStreamError, match=reason):
        parse_head(head_bytes(**changed), PLACE)


@pytest.mark.parametrize(
    "runs",
    [
        [(0x1001, 1)],
        [(0x1000, 0)],
        [(0x3000, 1), (0x1000, 1)],
        [(0x1000, 2), (0x2000, 1)],
        [(0x1000, 1), (0x2000, 1)],
        [(2**56 - 4096, 2)],
        [(2**64 - 4096, 1)],
    ],
)
def test_runs_that_cannot_be_are_refused(runs: list[tuple[int, int]]) -> None:
    run_list = b"".join(start.to_bytes(8, "little") + pages.to_bytes(4, "little") for start, pages in runs)
    head = FrameHead(FrameKind.ZERO, Compression.NONE, 0, 0, len(runs), 0, 0, 0)
    with pytest.raises(PageStreamError, match="run "):
        parse_runs(head, run_list, PLACE)


def test_runs_of_another_size_than_the_pages_are_refused() -> None:
    head = FrameHead(FrameKind.DATA, Compression.NONE, 0, 0, 1, 2 * PAGE_SIZE, 2 * PAGE_SIZE, 0)
    with pytest.raises(PageStreamError, match="runs of 4096 bytes with 8192"):
        parse_runs(head, (0x1000).to_bytes(8, "little") + (1).to_bytes(4, "little"), PLACE)


@given(st.integers(0, 2**63), st.integers(0, 2**63), st.integers(0, 2**63))
def test_round_end_counts_survive(frames: int, pages: int, raw_bytes: int) -> None:
    counts = RoundCounts(frames, pages, raw_bytes)
    frame = encode_round_end(5, counts)
    assert parse_head(frame[: HEAD.size], PLACE).kind is FrameKind.ROUND_END
    assert parse_counts(frame[HEAD.size :]) == counts
