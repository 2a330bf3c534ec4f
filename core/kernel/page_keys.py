"""Keys of pages, one 64-bit word each: equal keys, equal content (a frame) or likely so (a checksum). 0: no page.

Owns the calls into C; what is in common, and what is done about it, is core.memory's.
"""

import os
from array import array
from typing import TypeAlias

from core.kernel.pagemap_scan import Spans, ZeroFrames, span_array
from core.kernel.process_vm import SpanList, spans_of
from core.native._kernel import ffi, lib

PAGE = 4096

Keys: TypeAlias = "array[int]"
"""64-bit words, one per page of some spans, back to back."""


def no_keys(pages: int) -> Keys:
    """As many pages, none of them there."""
    return array("Q", bytes(8 * pages))


def read_frames(pagemap_fd: int, spans: Spans, zero: ZeroFrames) -> Keys:
    """The frames of the spans' pages: none for pages of files and zero pages, or where they are hidden. OSError."""
    frames = no_keys(_pages(spans))
    target = ffi.from_buffer("unsigned long long[]", frames)
    result = lib.mg_read_frames(pagemap_fd, span_array(spans), len(spans), zero.page, zero.huge, target)
    if result:
        raise OSError(-result, f"pagemap: {os.strerror(-result)}")
    return frames


class Ballot:
    """Which key of each page most voters have (if half of them have the same)."""

    def __init__(self, pages: int) -> None:
        self.elected = no_keys(pages)
        self._votes = array("I", bytes(4 * pages))

    def vote(self, keys: Keys) -> None:
        """One voter."""
        lib.mg_vote(_words(keys), len(keys), _words(self.elected), ffi.from_buffer("unsigned int[]", self._votes))

    def recount(self) -> None:
        """From here on `count` says who has what was elected."""
        self._votes = array("I", bytes(4 * len(self._votes)))

    def count(self, keys: Keys) -> None:
        """One voter, after all have voted."""
        votes = ffi.from_buffer("unsigned int[]", self._votes)
        lib.mg_count_votes(_words(keys), len(keys), _words(self.elected), votes)

    def drop_single(self) -> None:
        """What only one has is not in common."""
        lib.mg_drop_single(_words(self.elected), len(self.elected), ffi.from_buffer("unsigned int[]", self._votes))


def same_keys(spans: Spans, keys: Keys, others: Keys, *, take: bool = False) -> SpanList:
    """The spans' pages that have the same key in both; `take` sets them to 0 in `others`."""
    if len(keys) != _pages(spans) or len(others) != len(keys):
        raise ValueError("keys and spans differ in size")
    same = ffi.new("struct mg_span[]", len(keys))
    found = lib.mg_same_keys(span_array(spans), len(spans), _words(keys), _words(others), take, same)
    return spans_of(same, found)


def _words(keys: Keys) -> "ffi.CData":
    return ffi.from_buffer("unsigned long long[]", keys)


def _pages(spans: Spans) -> int:
    return sum(end - start for start, end in spans) // PAGE
