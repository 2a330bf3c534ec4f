"""The layout of this CPU's xsave area, standard format. Asked once: CPUID is slow inside a virtual machine."""

from functools import cache
from typing import Final

from core.native._kernel import ffi, lib

AMX_FEATURES: Final = 0x3 << 17
LEGACY_AND_HEADER: Final = 576


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
    places = [component_place(component) for component in range(2, 63) if features >> component & 1]
    return max([LEGACY_AND_HEADER, *(sum(place) for place in places if place)])


def usable_size() -> int:
    """Bytes that a task without AMX permission has."""
    return area_size(xcr0() & ~AMX_FEATURES)
