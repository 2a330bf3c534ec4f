"""The layout of this CPU's xsave area, standard format. Asked once: CPUID is slow inside a virtual machine."""

from functools import cache
from typing import Final

from core.native._kernel import ffi, lib

AMX_FEATURES: Final = 0x3 << 17
LEGACY_AND_HEADER: Final = 576
EXTENDED: Final = range(2, 63)  # components that lie behind these
COMPONENT_NAMES: Final = {2: "AVX", 5: "AVX-512 (masks)", 6: "AVX-512 (ZMM)", 7: "AVX-512 (ZMM 16-31)", 9: "PKU"}

Layout = tuple[tuple[int, int, int], ...]  # component, its offset and its size in bytes; processors differ


@cache
def xcr0() -> int:
    """The components that the kernel has enabled, bit by bit."""
    return int(lib.mg_xcr0())


@cache
def component_place(component: int) -> tuple[int, int] | None:
    """(offset, size) of a component; None when this CPU has none."""
    offset, size = ffi.new("unsigned int *"), ffi.new("unsigned int *")
    if not xcr0() >> component & 1 or lib.mg_xsave_component(component, offset, size) < 0:
        return None
    return int(offset[0]), int(size[0])


@cache
def area_size(features: int) -> int:
    """Bytes of an area with room for `features`."""
    places = [component_place(component) for component in EXTENDED if features >> component & 1]
    return max([LEGACY_AND_HEADER, *(sum(place) for place in places if place)])


@cache
def layout() -> Layout:
    """Where the area of a task without AMX permission has what, beyond x87 and SSE."""
    features = xcr0() & ~AMX_FEATURES
    places = {component: component_place(component) for component in EXTENDED if features >> component & 1}
    return tuple((component, *place) for component, place in places.items() if place)


def usable_size() -> int:
    """Bytes that a task without AMX permission has."""
    return area_size(xcr0() & ~AMX_FEATURES)


def component_names(features: int) -> str:
    """The components of a mask, for people."""
    numbers = [number for number in range(features.bit_length()) if features >> number & 1]
    return ", ".join(COMPONENT_NAMES.get(number, f"component {number}") for number in numbers)
