from hypothesis import given
from hypothesis import strategies as st

from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges

bounds = st.integers(0, 60)
spans = st.lists(st.tuples(bounds, bounds), max_size=12)


def units(ranges: Ranges) -> set[int]:
    return {unit for start, end in ranges for unit in range(start, end)}


def covered(raw: list[tuple[int, int]]) -> set[int]:
    return {unit for start, end in raw for unit in range(start, end)}


def assert_canonical(ranges: Ranges) -> None:
    assert all(start < end for start, end in ranges)
    assert all(left[1] < right[0] for left, right in zip(ranges.spans, ranges.spans[1:], strict=False))


@given(spans)
def test_of_covers_exactly_what_the_spans_cover(raw: list[tuple[int, int]]) -> None:
    ranges = Ranges.of(raw)
    assert_canonical(ranges)
    assert units(ranges) == covered(raw)
    assert ranges.total == len(covered(raw))


@given(spans, spans, spans)
def test_set_operations_agree_with_sets(
    a: list[tuple[int, int]], b: list[tuple[int, int]], c: list[tuple[int, int]]
) -> None:
    left, right, third = Ranges.of(a), Ranges.of(b), Ranges.of(c)
    for result, expected in (
        (left.union(right, third), covered(a) | covered(b) | covered(c)),
        (left.intersect(right), covered(a) & covered(b)),
        (left.subtract(right), covered(a) - covered(b)),
    ):
        assert_canonical(result)
        assert units(result) == expected


@given(spans, bounds, bounds)
def test_contains_and_overlaps_agree_with_sets(raw: list[tuple[int, int]], start: int, end: int) -> None:
    ranges, asked = Ranges.of(raw), set(range(start, end))
    assert ranges.contains(start) == (start in covered(raw))
    assert ranges.overlaps(start, end) == bool(asked & covered(raw))
    if asked:
        assert ranges.contains(start, end) == (asked <= covered(raw))


@given(spans, st.integers(1, 20), st.integers(1, 4))
def test_split_parts_are_bounded_and_complete(raw: list[tuple[int, int]], max_bytes: int, max_spans: int) -> None:
    ranges = Ranges.of(raw)
    parts = list(ranges.split(max_bytes, max_spans))
    assert all(0 < part.total <= max_bytes and len(part) <= max_spans for part in parts)
    assert Ranges.ordered(span for part in parts for span in part) == ranges


@given(st.sets(st.integers(0, 100)))
def test_pages_survive_the_way_there_and_back(pages: set[int]) -> None:
    ranges = Ranges.from_pages(pages)
    assert list(ranges.pages()) == sorted(pages)
    assert ranges.total_pages == len(pages)


def test_a_partial_page_counts_as_touched() -> None:
    assert list(Ranges.of([(PAGE_SIZE - 1, PAGE_SIZE + 1)]).pages()) == [0, 1]


def test_empty_ranges_are_false_and_say_none() -> None:
    assert not EMPTY
    assert str(EMPTY) == "none"
    assert str(Ranges.of([(0x1000, 0x3000)])) == "1000-3000"


def test_within_is_what_an_intersection_with_one_span_is() -> None:
    ranges = Ranges.of([(0, 4), (8, 12), (16, 20)])
    for start in range(22):
        for end in range(start, 22):
            assert ranges.within(start, end) == ranges.intersect(Ranges.of([(start, end)]))


def test_widened_is_every_piece_that_any_of_it_lies_in() -> None:
    assert Ranges.of([(5, 7), (15, 25), (40, 50)]).widened(10) == Ranges.of([(0, 10), (10, 30), (40, 50)])
    assert EMPTY.widened(10) == EMPTY
