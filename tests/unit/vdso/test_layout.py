"""Equal layouts mean that a task can live with this kernel's vDSO; anything else is named."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ImageError
from core.vdso.layout import make_layout, parse_symbols, read_vdso_layout, vdso_fingerprint
from tests.unit.vdso.images import own_image, own_places

OURS = read_vdso_layout()
IMAGE = own_image()


def test_this_kernels_layout_has_the_clock_and_its_data() -> None:
    names = {name for name, _, _ in OURS.symbols}
    assert {"__vdso_clock_gettime", "__vdso_gettimeofday"} <= names
    assert {"[vdso]", "[vvar]"} <= {name for name, _, _ in OURS.vmas}


def test_symbols_lie_inside_the_vdso() -> None:
    size = next(size for name, _, size in OURS.vmas if name == "[vdso]")
    assert all(0 < offset < size for _, offset, _ in OURS.symbols)


def test_the_fingerprint_does_not_depend_on_the_address() -> None:
    moved = {name: (start + (1 << 30), end + (1 << 30)) for name, (start, end) in own_places().items()}
    assert make_layout(moved, IMAGE) == OURS
    assert make_layout(moved, IMAGE).fingerprint == vdso_fingerprint()


def test_code_patched_for_another_processor_is_the_same_layout() -> None:
    _, offset, size = next(one for one in OURS.symbols if one[0] == "__vdso_clock_gettime")
    patched = bytearray(IMAGE)
    patched[offset : offset + size] = b"\x90" * size
    assert make_layout(own_places(), bytes(patched)) == OURS


def test_a_function_elsewhere_is_another_layout() -> None:
    name, offset, size = OURS.symbols[0]
    theirs = replace(OURS, symbols=((name, offset + 16, size), *OURS.symbols[1:]))
    assert theirs != OURS and theirs.fingerprint != OURS.fingerprint


def test_data_elsewhere_is_another_layout() -> None:
    moved = {name: (start - 4096 * (name == "[vvar]"), end) for name, (start, end) in own_places().items()}
    assert make_layout(moved, IMAGE) != OURS


@pytest.mark.parametrize("image", [b"", b"\x7fELF", bytes(8192), IMAGE[:4096]])
def test_what_is_no_vdso_is_an_image_error(image: bytes) -> None:
    with pytest.raises(ImageError, match="vdso"):
        parse_symbols(image)


ANYWHERE = st.integers(0, len(IMAGE) - 1)
HEADERS = st.integers(0, 63) | st.integers(len(IMAGE) - 2048, len(IMAGE) - 1)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(ANYWHERE | HEADERS, st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_image_is_read_or_an_image_error(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(IMAGE)
    for position, value in changes:
        damaged[position] = value
    with contextlib.suppress(ImageError):
        parse_symbols(bytes(damaged))
