"""Areas of rseq(2) between kernels: as large as they were where that is taken, of the original size elsewhere."""

import pytest

from core.kernel.rseq import feature_size, size_here


@pytest.mark.parametrize(
    ("size", "written", "here"),
    [(32, None, 32), (32, 28, 32), (64, None, 32), (64, 28, 64), (64, 96, 32), (33, 28, 33)],
    ids=["6.1", "6.12", "a kernel before 6.3", "room enough", "a kernel that writes more", "odd"],
)
def test_an_area_is_registered_as_large_as_the_kernel_takes(size: int, written: int | None, here: int) -> None:
    assert size_here(0x1000, size, written) == here


def test_one_that_is_not_aligned_has_the_original_size() -> None:
    assert size_here(0x1010, 64, 28) == 32


def test_this_kernel_tells_what_it_writes_or_nothing() -> None:
    assert feature_size() is None or feature_size() >= 20
