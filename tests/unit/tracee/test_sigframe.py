"""The frame that gives a borrowed thread back to itself: layout of asm/sigcontext.h, and calls that are made again."""

import struct

import pytest

from core.tracee.sigframe import build_frame, frame_size, made_again, rewound, signed
from tests.unit.tracee.states import MINUS_ONE, registers_with, state_with

ADDRESS = 0x7FFF00001000
RESTORER = 0x401234
GENERAL = 8 + 40  # return address, then uc_flags, uc_link and uc_stack


def test_the_frame_holds_return_address_registers_and_mask_where_the_kernel_reads_them() -> None:
    frame = build_frame(state_with(sigmask=0x8123, orig_ax=-1), ADDRESS, RESTORER)
    assert struct.unpack_from("<Q", frame) == (RESTORER,)
    words = struct.unpack_from("<18Q", frame, GENERAL)
    order = [
        "r8",
        "r9",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
        "di",
        "si",
        "bp",
        "bx",
        "dx",
        "ax",
        "cx",
        "sp",
        "ip",
        "flags",
    ]
    assert words == tuple(getattr(registers_with(), name) for name in order)
    assert struct.unpack_from("<Q", frame, 8 + 40 + 256) == (0x8123,)


def test_the_floating_point_area_is_aligned_and_announced() -> None:
    state = state_with(orig_ax=-1)
    frame = build_frame(state, ADDRESS, RESTORER)
    (fpu,) = struct.unpack_from("<Q", frame, GENERAL + 8 * 23)
    assert fpu % 64 == 0 and ADDRESS < fpu < ADDRESS + len(frame)
    magic, extended, _, size = struct.unpack_from("<IIQI", frame, fpu - ADDRESS + 464)
    assert (magic, extended) == (0x46505853, size + 4)
    assert frame[fpu - ADDRESS + size :] == struct.pack("<I", 0x46505845)


@pytest.mark.parametrize("offset", range(0, 64, 16))
def test_a_frame_is_never_larger_than_it_was_said_to_be(offset: int) -> None:
    state = state_with()
    assert len(build_frame(state, ADDRESS + offset, RESTORER)) <= frame_size(len(state.xstate))


def test_the_alternate_stack_is_left_alone() -> None:
    (flags,) = struct.unpack_from("<i", build_frame(state_with(), ADDRESS, RESTORER), 8 + 24)
    assert flags == 0x7F  # which sigaltstack(2) refuses


@pytest.mark.parametrize("error", [-512, -513, -514, -516])
def test_a_call_that_the_kernel_would_restart_is_made_again(error: int) -> None:
    again = rewound(registers_with(orig_ax=35, ax=error, ip=0x400002))
    assert (again.ax, again.ip, again.orig_ax) == (35, 0x400000, MINUS_ONE)


@pytest.mark.parametrize(("orig_ax", "ax"), [(-1, -512), (35, 0), (35, -4), (35, -11), (0, 512), (35, -515)])
def test_anything_else_is_left_alone(orig_ax: int, ax: int) -> None:
    registers = registers_with(orig_ax=orig_ax, ax=ax)
    assert rewound(registers) is registers


def test_a_call_made_again_is_in_no_call_any_more() -> None:
    again = made_again(registers_with(orig_ax=232, ax=-4, ip=0x400002))
    assert rewound(again) is again
    assert signed(again.orig_ax) == -1


@pytest.mark.parametrize(
    ("raw", "value"), [(0, 0), (MINUS_ONE, -1), (1 << 63, -(1 << 63)), ((1 << 63) - 1, (1 << 63) - 1)]
)
def test_registers_are_signed_numbers(raw: int, value: int) -> None:
    assert signed(raw) == value
