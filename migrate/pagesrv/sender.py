"""Sends pages down a descriptor: read, zero pages taken out, compressed, framed. Synchronous, in the keeper.

One round at a time: send_round for each mm, then end_round.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from core import EMPTY, PAGE_SIZE, Buffer, PageBatch, PageReader, Ranges, drop_zero
from core.errors import PageStreamError
from migrate.pagesrv.filters import CompressMode, Compressor, RateLimit
from migrate.pagesrv.frames import (
    MAX_RAW,
    MAX_RUN_PAGES,
    MAX_RUNS,
    FrameKind,
    RoundCounts,
    encode_frame,
    encode_ids,
    encode_round_end,
)

Progress = Callable[[int, int], None]
"""Called after every batch with (pages done, bytes on the wire) of this send_round; may raise to stop it."""


@dataclass(frozen=True, slots=True)
class RoundCount:
    """What one round (or one mm's part of it) came to. `pages` counts all pages told, `zero_pages` those of them
    that went as ZERO runs, `raw_bytes` the others' size; `missing` could not be read and were not sent."""

    frames: int = 0
    pages: int = 0
    raw_bytes: int = 0
    zero_pages: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0
    missing: Ranges = EMPTY

    def plus(self, other: "RoundCount") -> "RoundCount":
        """Both added up; `missing` is per mm and is dropped."""
        return RoundCount(
            self.frames + other.frames,
            self.pages + other.pages,
            self.raw_bytes + other.raw_bytes,
            self.zero_pages + other.zero_pages,
            self.sent_bytes + other.sent_bytes,
            self.seconds + other.seconds,
        )


def _no_progress(pages: int, sent_bytes: int) -> None:
    pass


class PageSender:
    """Writes frames to `fd` (blocking; not closed here). `bytes_per_s` 0: as fast as it goes."""

    def __init__(
        self,
        fd: int,
        compress: CompressMode = "auto",
        bytes_per_s: float = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._fd = fd
        self._clock = clock
        self._compressor = Compressor(compress)
        self._rate = RateLimit(bytes_per_s, clock, sleep)
        self._round = RoundCount()
        self._count = RoundCount()

    def send_round(
        self,
        round: int,
        mm_id: int,
        reader: PageReader,
        ranges: Ranges,
        progress: Progress = _no_progress,
        *,
        zero: Ranges = EMPTY,
    ) -> RoundCount:
        """Send the pages of `ranges`, and that `zero` are zero now. PageStreamError: the stream broke."""
        began = self._clock()
        self._count = RoundCount()
        reader.missing = EMPTY
        try:
            self._send_zero(round, mm_id, zero)
            for batch in reader.batches(ranges):
                self._send_batch(round, mm_id, batch)
                progress(self._count.pages, self._count.sent_bytes)
        finally:  # what went out counts, also when the process ends in the middle
            count = replace(self._count, seconds=self._clock() - began, missing=reader.missing)
            self._round = self._round.plus(count)
        return count

    def send_ids(self, round: int, dump_id: str, parent_id: str) -> None:
        """Say which dump it is and since which one ("" for none)."""
        self._write([encode_ids(round, dump_id, parent_id)])
        self._round = self._round.plus(RoundCount(frames=1))

    def send_parent(self, round: int, mm_id: int, runs: Ranges) -> None:
        """Say that the parent has the runs."""
        for part in runs.split(MAX_RUN_PAGES * PAGE_SIZE, MAX_RUNS):
            self._write([encode_frame(FrameKind.PARENT, round=round, mm_id=mm_id, runs=part)])
            self._round = self._round.plus(RoundCount(frames=1))

    def end_round(self, round: int) -> RoundCount:
        """Say that the round is complete; what all of it came to."""
        total, self._round = self._round, RoundCount()
        self._write([encode_round_end(round, RoundCounts(total.frames, total.pages, total.raw_bytes))])
        return total

    def _send_batch(self, round: int, mm_id: int, batch: PageBatch) -> None:
        kept, zero = drop_zero(batch)
        self._send_zero(round, mm_id, zero)
        for runs, memory in _parts(kept):
            compression, payload = self._compressor.compress(memory)
            frame = encode_frame(
                FrameKind.DATA,
                round=round,
                mm_id=mm_id,
                runs=runs,
                payload=payload,
                raw_size=len(memory),
                compression=compression,
            )
            self._write([frame, payload])
            self._add(frames=1, pages=runs.total_pages, raw_bytes=len(memory))

    def _send_zero(self, round: int, mm_id: int, zero: Ranges) -> None:
        for runs in zero.split(MAX_RUN_PAGES * PAGE_SIZE, MAX_RUNS):
            self._write([encode_frame(FrameKind.ZERO, round=round, mm_id=mm_id, runs=runs)])
            self._add(frames=1, pages=runs.total_pages, zero_pages=runs.total_pages)

    def _add(self, *, frames: int, pages: int, raw_bytes: int = 0, zero_pages: int = 0) -> None:
        self._count = self._count.plus(RoundCount(frames, pages, raw_bytes, zero_pages))

    def _write(self, parts: Sequence[Buffer]) -> None:
        size = sum(len(part) for part in parts)
        self._rate.wait_for(size)
        try:
            write_all(self._fd, parts)
        except OSError as error:
            raise PageStreamError(f"page stream: cannot send: {error.strerror}") from error
        self._count = self._count.plus(RoundCount(sent_bytes=size))


def _parts(batch: PageBatch) -> Iterator[tuple[Ranges, memoryview]]:
    """The batch in pieces that fit a frame; nearly always one."""
    offset = 0
    for runs in batch.runs.split(MAX_RAW, MAX_RUNS):
        yield runs, batch.memory[offset : offset + runs.total]
        offset += runs.total


def write_all(fd: int, parts: Sequence[Buffer]) -> None:
    """Write every byte of the parts to a blocking descriptor. OSError."""
    left = [memoryview(part) for part in parts if len(part)]
    while left:
        written = os.writev(fd, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
