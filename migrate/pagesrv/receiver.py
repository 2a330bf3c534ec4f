"""Receives pages from a descriptor and lands them; nothing of a frame lands before all of it was checked.

Synchronous; the destination's keeper runs it in a thread.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from core import Buffer, Ranges
from migrate.pagesrv.filters import Decompressor
from migrate.pagesrv.frames import (
    HEAD,
    MAX_RUNS,
    MAX_STORED,
    RUN,
    Compression,
    FrameHead,
    FrameKind,
    RoundCounts,
    StreamPlace,
    check_body,
    parse_counts,
    parse_head,
    parse_ids,
    parse_runs,
)
from migrate.pagesrv.sender import RoundCount


class Landing(Protocol):
    """Where pages go: a PageLander, or a test's record."""

    def land(self, mm_id: int, runs: Ranges, memory: Buffer) -> None:
        """`memory`: the runs' pages back to back; valid only during the call."""

    def zero(self, mm_id: int, runs: Ranges) -> None:
        """The runs' pages are zero now."""


class Marks(Protocol):
    """What a page server and its client say besides the pages."""

    def parent(self, mm_id: int, runs: Ranges) -> None:
        """The parent has the runs."""

    def ids(self, dump_id: str, parent_id: str) -> None:
        """Which dump it is and since which one ("" for none)."""


class PageReceiver:
    """Reads frames from `fd` (blocking; not closed here). After an error the stream is of no use any more."""

    def __init__(
        self, fd: int, landing: Landing, marks: Marks | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fd = fd
        self._landing = landing
        self._marks = marks
        self._clock = clock
        self._decompressor = Decompressor()
        self._place = StreamPlace(0, 0)
        self._offset = 0
        self._count = RoundCount()
        self._head = memoryview(bytearray(HEAD.size))
        self._body = memoryview(bytearray(RUN.size * MAX_RUNS + MAX_STORED))

    def run_until_round_end(self, round: int) -> RoundCount:
        """Land every frame of `round`. PageStreamError names frame, offset and reason."""
        began = self._clock()
        self._count = RoundCount()
        while True:
            self._place = StreamPlace(self._place.frame + 1, self._offset)
            head = self._receive_head(round)
            run_list, payload = self._receive_body(head)
            if head.kind is FrameKind.ROUND_END:
                self._check_end(payload)
                return replace(self._count, seconds=self._clock() - began)
            self._land(head, parse_runs(head, run_list, self._place), payload)

    def _receive_head(self, round: int) -> FrameHead:
        self._read(self._head, f"the head of a frame of round {round}")
        head = parse_head(self._head, self._place)
        if head.round != round:
            raise self._place.error(f"frame of round {head.round} in round {round}")
        return head

    def _receive_body(self, head: FrameHead) -> tuple[memoryview, memoryview]:
        body = self._body[: head.runs_size + head.stored_size]
        self._read(body, "its pages")
        run_list, payload = body[: head.runs_size], body[head.runs_size :]
        check_body(head, run_list, payload, self._place)
        return run_list, payload

    def _mark(self, head: FrameHead, runs: Ranges, payload: memoryview) -> None:
        if self._marks is None:
            raise self._place.error(f"a {head.kind.name} frame is for page servers alone")
        try:
            if head.kind is FrameKind.IDS:
                self._marks.ids(*parse_ids(payload, self._place))
            else:
                self._marks.parent(head.mm_id, runs)
        except OSError as error:
            raise self._place.error(f"cannot be followed: {error.strerror}") from error
        self._count = self._count.plus(RoundCount(1))

    def _land(self, head: FrameHead, runs: Ranges, payload: memoryview) -> None:
        if head.kind in (FrameKind.IDS, FrameKind.PARENT):
            return self._mark(head, runs, payload)
        memory = self._plain(head, payload)
        try:
            if head.kind is FrameKind.ZERO:
                self._landing.zero(head.mm_id, runs)
            else:
                self._landing.land(head.mm_id, runs, memory)
        except OSError as error:
            raise self._place.error(f"cannot land its pages in memory {head.mm_id}: {error.strerror}") from error
        zero_pages = runs.total_pages if head.kind is FrameKind.ZERO else 0
        self._count = self._count.plus(
            RoundCount(1, runs.total_pages, head.raw_size, zero_pages, HEAD.size + head.runs_size + head.stored_size)
        )

    def _plain(self, head: FrameHead, payload: memoryview) -> Buffer:
        if head.compression is Compression.NONE:
            return payload
        try:
            return self._decompressor.decompress(payload, head.raw_size)
        except ValueError as error:
            raise self._place.error(f"cannot decompress: {error}") from error

    def _check_end(self, payload: memoryview) -> None:
        got = RoundCounts(self._count.frames, self._count.pages, self._count.raw_bytes)
        if parse_counts(payload) != got:
            raise self._place.error(f"the round came to {got}, sent were {parse_counts(payload)}")

    def _read(self, into: memoryview, what: str) -> None:
        done = 0
        while done < len(into):
            try:
                size = os.readv(self._fd, [into[done:]])
            except OSError as error:
                raise self._place.error(f"cannot receive {what}: {error.strerror}") from error
            if not size:
                raise self._place.error(f"the stream ended after {done} of {len(into)} bytes of {what}")
            done += size
            self._offset += size
