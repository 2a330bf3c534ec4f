"""Pools of huge pages, as the kernel tells of them."""

from pathlib import Path

import pytest

from core.kernel import hugetlb


def test_those_that_are_free_count_without_the_reserved_and_with_those_the_pool_may_grow_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = {"hugepages-2048kB": (5, 2, 10, 4), "hugepages-1048576kB": (0, 1, 0, 0), "something-else": (9, 9, 9, 9)}
    names = ("free_hugepages", "resv_hugepages", "nr_overcommit_hugepages", "surplus_hugepages")
    for pool, counts in pools.items():
        (tmp_path / pool).mkdir()
        for name, count in zip(names, counts, strict=True):
            (tmp_path / pool / name).write_text(f"{count}\n")
    monkeypatch.setattr(hugetlb, "POOLS", tmp_path)
    assert hugetlb.free_pages(1 << 40) == {2 << 20: 9, 1 << 30: 0}
    assert hugetlb.free_pages(0) == hugetlb.free_pages(1 << 40)
    assert hugetlb.free_pages(5 << 20) == {2 << 20: 5, 1 << 30: 0}
    assert hugetlb.free_pages(1 << 20)[2 << 20] == 3


@pytest.mark.parametrize("size", hugetlb.SIZES)
def test_a_size_is_told_by_flags_and_read_from_them(size: int) -> None:
    assert hugetlb.flagged_size(hugetlb.size_flags(size) | hugetlb.MAP_HUGETLB) == size
    assert hugetlb.size_flags(4096) == 0 and hugetlb.flagged_size(0) == 4096
