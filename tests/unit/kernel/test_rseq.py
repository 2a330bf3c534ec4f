"""Areas of rseq(2) between kernels: as large as they were where that is taken, of the original size elsewhere."""

import pytest

from core.kernel.rseq import size_here, written_here


@pytest.mark.parametrize(
    ("size", "written", "here"),
    [(32, None, 32), (32, (28, 32), 32), (64, None, 32), (64, (28, 32), 64), (64, (96, 128), 32), (33, (28, 32), 33)],
    ids=["6.1", "6.12", "a kernel before 6.3", "room enough", "a kernel that writes more", "odd"],
)
def test_an_area_is_registered_as_large_as_the_kernel_takes(
    size: int, written: tuple[int, int] | None, here: int
) -> None:
    assert size_here(0x1000, size, written) == here


def test_one_that_is_not_aligned_as_the_kernel_wants_it_has_the_original_size() -> None:
    assert size_here(0x1020, 64, (36, 64)) == 32
    assert size_here(0x1020, 64, (28, 32)) == 64


def test_this_kernel_tells_what_it_writes_or_nothing() -> None:
    assert written_here() is None or (written_here() or ())[0] >= 20
