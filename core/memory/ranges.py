"""Interval arithmetic on half-open [start, end) byte ranges; pure, knows nothing of processes.

A Ranges is sorted, disjoint and never has two spans that touch: equal sets are equal values.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import chain

PAGE_SIZE = 4096

Span = tuple[int, int]


def _joined(ordered: Iterable[Span]) -> tuple[Span, ...]:
    spans: list[Span] = []
    last_start, last_end = 0, -1
    for start, end in ordered:
        if start >= end:
            continue
        if start <= last_end:
            last_end = max(last_end, end)
            spans[-1] = (last_start, last_end)
        else:
            spans.append((start, end))
            last_start, last_end = start, end
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Sorted disjoint spans. Build with `of` (any order) or `ordered` (ascending starts); not from raw tuples."""

    spans: tuple[Span, ...] = ()

    @classmethod
    def of(cls, spans: Iterable[Span]) -> "Ranges":
        """From spans in any order, overlapping or empty ones allowed."""
        return cls(_joined(sorted(spans)))

    @classmethod
    def ordered(cls, spans: Iterable[Span]) -> "Ranges":
        """From spans whose starts ascend; cheaper than `of`."""
        return cls(_joined(spans))

    @classmethod
    def from_pages(cls, pages: Iterable[int]) -> "Ranges":
        """From page numbers (address / 4096)."""
        return cls.of((page * PAGE_SIZE, (page + 1) * PAGE_SIZE) for page in pages)

    def pages(self) -> Iterator[int]:
        """Page numbers of every page touched, ascending."""
        return chain.from_iterable(range(start // PAGE_SIZE, -(-end // PAGE_SIZE)) for start, end in self.spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __bool__(self) -> bool:
        return bool(self.spans)

    @property
    def total(self) -> int:
        """Bytes covered."""
        return sum(end - start for start, end in self.spans)

    @property
    def total_pages(self) -> int:
        """Whole pages covered."""
        return self.total // PAGE_SIZE

    def contains(self, start: int, end: int | None = None) -> bool:
        """Whether the byte at `start`, or all of [start, end), is covered."""
        span = self._span_at(start)
        return span is not None and (end is None or end <= span[1])

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any byte of [start, end) is covered."""
        index = self._first_ending_after(start)
        return start < end and index < len(self.spans) and self.spans[index][0] < end

    def within(self, start: int, end: int) -> "Ranges":
        """Bytes of it in [start, end); looks at no span outside."""
        first = last = self._first_ending_after(start)
        while last < len(self.spans) and self.spans[last][0] < end:
            last += 1
        return Ranges(tuple((max(start, one), min(end, other)) for one, other in self.spans[first:last] if start < end))

    def _first_ending_after(self, address: int) -> int:
        low, high = 0, len(self.spans)
        while low < high:
            middle = (low + high) // 2
            if self.spans[middle][1] <= address:
                low = middle + 1
            else:
                high = middle
        return low

    def _span_at(self, address: int) -> Span | None:
        index = self._first_ending_after(address)
        if index < len(self.spans) and self.spans[index][0] <= address:
            return self.spans[index]
        return None

    def union(self, *others: "Ranges") -> "Ranges":
        """Bytes in any of them."""
        filled = [each for each in (self, *others) if each.spans]
        if len(filled) < 2:
            return filled[0] if filled else EMPTY
        return Ranges(_joined(merge(*(each.spans for each in filled))))

    def intersect(self, other: "Ranges") -> "Ranges":
        """Bytes in both."""
        return Ranges(tuple(_common(self.spans, other.spans)))

    def subtract(self, other: "Ranges") -> "Ranges":
        """Bytes in this one only."""
        return Ranges(tuple(_rest(self.spans, other.spans))) if other.spans and self.spans else self

    def widened(self, unit: int) -> "Ranges":
        """Every piece of `unit` bytes that any of it lies in."""
        return Ranges.of((start // unit * unit, -(-end // unit) * unit) for start, end in self.spans)

    def moved(self, by: int) -> "Ranges":
        """The same, so many bytes further up."""
        return Ranges(tuple((start + by, end + by) for start, end in self.spans))

    def split(self, max_bytes: int, max_spans: int | None = None) -> Iterator["Ranges"]:
        """Consecutive parts of at most `max_bytes` (whole pages when it is a multiple) and `max_spans` spans."""
        part: list[Span] = []
        room = max_bytes
        for start, end in self.spans:
            while start < end:
                stop = min(end, start + room)
                part.append((start, stop))
                room -= stop - start
                start = stop
                if room == 0 or len(part) == max_spans:
                    yield Ranges(tuple(part))
                    part, room = [], max_bytes
        if part:
            yield Ranges(tuple(part))

    def __str__(self) -> str:
        return " ".join(f"{start:x}-{end:x}" for start, end in self.spans) or "none"


EMPTY = Ranges()
EVERYTHING = Ranges(((0, 1 << 64),))


def _common(left: tuple[Span, ...], right: tuple[Span, ...]) -> Iterator[Span]:
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            yield start, end
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1


def _rest(left: tuple[Span, ...], right: tuple[Span, ...]) -> Iterator[Span]:
    j = 0
    for start, end in left:
        while j < len(right) and right[j][1] <= start:
            j += 1
        k = j
        while k < len(right) and right[k][0] < end:
            if start < right[k][0]:
                yield start, right[k][0]
            start = max(start, right[k][1])
            k += 1
        if start < end:
            yield start, end
