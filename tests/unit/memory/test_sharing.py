"""Common pages: the content that most have, given by one of them; what only one has is not common."""

from array import array
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.kernel.page_keys import Keys
from core.memory import sharing
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.memory.sharing import Common, find_common, repeated

SPANS = Ranges.from_pages([16, 17, 18, 20, 21, 30])
PAGES = [*SPANS.pages()]
Contents = dict[int, list[int]]


def contents() -> st.SearchStrategy[Contents]:
    """Of each task, the key of each page of SPANS, 0 for none."""
    row = st.lists(st.integers(0, 3), min_size=len(PAGES), max_size=len(PAGES))
    return st.dictionaries(st.integers(1, 9), row, min_size=1, max_size=6)


def common_of(found: Contents) -> Common:
    def keys_of(part: Ranges) -> Mapping[int, Keys]:
        wanted = [PAGES.index(page) for page in part.pages()]
        return {id: array("Q", [row[index] for index in wanted]) for id, row in found.items()}

    return find_common(SPANS, keys_of)


@given(contents())
def test_kept_pages_have_the_content_that_their_owner_gives(found: Contents) -> None:
    common = common_of(found)
    for index, page in enumerate(PAGES):
        owners = [id for id, ranges in common.owned.items() if ranges.contains(page * PAGE_SIZE)]
        keepers = [id for id, ranges in common.kept.items() if ranges.contains(page * PAGE_SIZE)]
        assert len(owners) == (1 if keepers else 0)
        if keepers:
            key = found[owners[0]][index]
            assert key and len(keepers) > 1 and owners[0] in keepers
            assert keepers == [id for id, row in found.items() if row[index] == key]


@given(contents())
def test_what_most_have_is_common(found: Contents) -> None:
    common = common_of(found)
    for index, page in enumerate(PAGES):
        counted = Counter(row[index] for row in found.values() if row[index])
        key, count = counted.most_common(1)[0] if counted else (0, 0)
        if count > 1 and 2 * count > counted.total():
            assert [id for id, row in found.items() if row[index] == key] == [
                id for id, ranges in common.kept.items() if ranges.contains(page * PAGE_SIZE)
            ]


def test_parts_of_a_large_span_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "PART_BYTES", 2 * PAGE_SIZE)
    assert common_of({1: [5] * len(PAGES), 2: [5] * len(PAGES)}).pages == SPANS


def test_repeated_is_what_two_have() -> None:
    a, b, c = (Ranges.from_pages(pages) for pages in ([1, 2, 3], [3, 4], [2, 9]))
    assert repeated([a, b, c]) == Ranges.from_pages([2, 3])
    assert repeated([a]) == EMPTY
