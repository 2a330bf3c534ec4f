"""The page stream's frames, bytes to records and back. Pure: no I/O.

    head    HEAD: fixed, with its own checksum, so that no length is believed before it is checked
    runs    n_runs x (start u64, pages u32), ascending
    payload DATA: the runs' pages back to back, plain or one zstd frame · ZERO: none · ROUND_END: three counts
            to and from a page server also PARENT: none, the parent has the runs · IDS: of the dump and of its parent

All little-endian. Runs and payload together have the second checksum. Change anything: bump FRAME_VERSION.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from core import PAGE_SIZE, Buffer, Ranges, crc32c
from core.errors import PageStreamError

FRAME_VERSION: Final = 2
MAGIC: Final = b"mgPG"
MAX_RUNS: Final = 1024
MAX_RAW: Final = 4 << 20
MAX_STORED: Final = MAX_RAW + (64 << 10)
MAX_ADDRESS: Final = 1 << 56  # x86-64 with five levels of page tables
MAX_RUN_PAGES: Final = 0xFFFFFFFF

HEAD = struct.Struct("<4sBBBBIIIIIII")  # the last: CRC-32C of all before it
RUN = struct.Struct("<QI")
COUNTS = struct.Struct("<QQQ")
IDS = struct.Struct("<32s32s")


class FrameKind(IntEnum):
    """What a frame carries."""

    DATA = 1
    ZERO = 2
    ROUND_END = 3
    PARENT = 4
    IDS = 5


class Compression(IntEnum):
    """How a DATA frame's payload is stored."""

    NONE = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class FrameHead:
    """A frame's fixed part; sizes in bytes. `body_crc` covers runs and payload as they are on the wire."""

    kind: FrameKind
    compression: Compression
    mm_id: int
    round: int
    n_runs: int
    raw_size: int
    stored_size: int
    body_crc: int

    @property
    def runs_size(self) -> int:
        """Bytes of the run list."""
        return self.n_runs * RUN.size


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Where in the stream a frame stands, for messages: its number from 1 and the offset of its first byte."""

    frame: int
    offset: int

    def error(self, reason: str) -> PageStreamError:
        """The error that names this place."""
        return PageStreamError(f"page stream: frame {self.frame} at byte {self.offset}: {reason}")


@dataclass(frozen=True, slots=True)
class RoundCounts:
    """What ROUND_END says was sent in its round (itself not counted): the receiver compares."""

    frames: int
    pages: int
    raw_bytes: int


def encode_runs(runs: Ranges) -> bytes:
    """The run list of at most MAX_RUNS page-aligned runs."""
    return b"".join(RUN.pack(start, (end - start) // PAGE_SIZE) for start, end in runs)


def encode_frame(
    kind: FrameKind,
    *,
    round: int,
    mm_id: int = 0,
    runs: Ranges = Ranges(),
    payload: Buffer = b"",
    raw_size: int = 0,
    compression: Compression = Compression.NONE,
) -> bytes:
    """Head and run list of a frame; the payload follows it on the wire as it was given."""
    run_list = encode_runs(runs)
    body_crc = crc32c(payload, crc32c(run_list))
    head = HEAD.pack(
        MAGIC, FRAME_VERSION, kind, compression, 0, mm_id, round, len(runs), raw_size, len(payload), body_crc, 0
    )
    return head[:-4] + crc32c(head[:-4]).to_bytes(4, "little") + run_list


def encode_round_end(round: int, counts: RoundCounts) -> bytes:
    """A whole ROUND_END frame."""
    payload = COUNTS.pack(counts.frames, counts.pages, counts.raw_bytes)
    return encode_frame(FrameKind.ROUND_END, round=round, payload=payload) + payload


def encode_ids(round: int, dump_id: str, parent_id: str) -> bytes:
    """A whole IDS frame; "" for what there is not."""
    payload = IDS.pack(dump_id.encode(), parent_id.encode())
    return encode_frame(FrameKind.IDS, round=round, payload=payload) + payload


def parse_ids(payload: Buffer, place: StreamPlace) -> tuple[str, str]:
    """What an IDS frame says."""
    try:
        dump_id, parent_id = (word.rstrip(b"\0").decode("ascii") for word in IDS.unpack(payload))
    except UnicodeDecodeError as error:
        raise place.error("names of dumps that are none") from error
    return dump_id, parent_id


def parse_head(head: bytes | bytearray | memoryview, place: StreamPlace) -> FrameHead:
    """HEAD.size bytes as a record; PageStreamError when anything in it is not as it must be."""
    magic, version, kind, compression, reserved, mm_id, round, n_runs, raw, stored, body_crc, crc = HEAD.unpack(head)
    if magic != MAGIC:
        raise place.error(f"not a page frame (magic {magic.hex()})")
    if crc != crc32c(head[:-4]):
        raise place.error("checksum of the head does not match")
    if version != FRAME_VERSION:
        raise place.error(f"version {version}, we speak {FRAME_VERSION}")
    if kind not in tuple(FrameKind) or compression not in tuple(Compression) or reserved:
        raise place.error(f"unknown kind {kind}, compression {compression} or flag {reserved}")
    parsed = FrameHead(FrameKind(kind), Compression(compression), mm_id, round, n_runs, raw, stored, body_crc)
    _check_sizes(parsed, place)
    return parsed


def _check_sizes(head: FrameHead, place: StreamPlace) -> None:
    match head.kind:
        case FrameKind.DATA:
            plain_differs = head.compression is Compression.NONE and head.raw_size != head.stored_size
            bad = not head.n_runs or not head.raw_size or head.raw_size % PAGE_SIZE or plain_differs
        case FrameKind.IDS:
            bad = head.n_runs or head.raw_size or head.stored_size != IDS.size or head.compression or head.mm_id
        case FrameKind.ZERO | FrameKind.PARENT:
            bad = not head.n_runs or head.raw_size or head.stored_size or head.compression
        case FrameKind.ROUND_END:
            bad = head.n_runs or head.raw_size or head.stored_size != COUNTS.size or head.compression or head.mm_id
    if bad or head.n_runs > MAX_RUNS or head.raw_size > MAX_RAW or head.stored_size > MAX_STORED:
        sizes = f"{head.n_runs} runs, {head.raw_size} bytes stored as {head.stored_size}"
        raise place.error(f"sizes that a {head.kind.name} frame cannot have: {sizes}")


def check_body(head: FrameHead, run_list: Buffer, payload: Buffer, place: StreamPlace) -> None:
    """PageStreamError when runs or payload are not the bytes that were sent."""
    if crc32c(payload, crc32c(run_list)) != head.body_crc:
        raise place.error("checksum of runs and payload does not match")


def parse_runs(head: FrameHead, run_list: Buffer, place: StreamPlace) -> Ranges:
    """The runs: page-aligned, ascending, apart from each other, of just the size the head says."""
    spans = [(start, start + pages * PAGE_SIZE) for start, pages in RUN.iter_unpack(run_list)]
    _check_runs(spans, place)
    runs = Ranges(tuple(spans))
    if head.kind is FrameKind.DATA and runs.total != head.raw_size:
        raise place.error(f"runs of {runs.total} bytes with {head.raw_size} bytes of pages")
    return runs


def _check_runs(spans: Sequence[tuple[int, int]], place: StreamPlace) -> None:
    before = -1
    for start, end in spans:
        if start % PAGE_SIZE or end <= start or end > MAX_ADDRESS or start <= before:
            raise place.error(f"run {start:x}-{end:x} is misaligned, empty, out of range or out of order")
        before = end


def parse_counts(payload: Buffer) -> RoundCounts:
    """What a ROUND_END's payload says."""
    return RoundCounts(*COUNTS.unpack(payload))
