"""The rt_sigframe by which a borrowed thread comes back to itself, should we die, and calls that are made again. Pure.

The frame itself is built by core/native/frame.c.
"""

from functools import cache
from typing import Final

from core.kernel.threads import Registers, ThreadBlock, ThreadState
from core.kernel.xsave import AMX_FEATURES, usable_size, xcr0
from core.native._kernel import ffi, lib

STACK_ROOM: Final = 8192  # below a frame: for a signal handler, should we die before the mask is set
RESTARTS: Final = frozenset({-512, -513, -514, -516})  # ERESTARTSYS, NOINTR, NOHAND, RESTART_RESTARTBLOCK
EINTR: Final = -4
ERESTARTNOHAND: Final = -514  # made again unless a handler runs, then EINTR. Source: linux/errno.h
CLOSE: Final = 3


def signed(value: int) -> int:
    """A register as a signed 64-bit number."""
    return value - (1 << 64) if value >> 63 else value


def rewound(registers: Registers) -> Registers:
    """Registers that make an interrupted syscall again when user mode is reached, without the kernel's restarting.

    A relative timeout begins anew. -EINTR is no matter of the kernel's: see freezer.undisturbed.
    """
    if signed(registers.orig_ax) < 0 or signed(registers.ax) not in RESTARTS:
        return registers
    return made_again(registers)


def ended_by_a_stop(registers: Registers) -> bool:
    """True in a system call that ends with EINTR and may be made again. Of close(2) the descriptor is gone by then."""
    return signed(registers.ax) == EINTR and signed(registers.orig_ax) >= 0 and registers.orig_ax != CLOSE


def made_again(registers: Registers) -> Registers:
    """Registers just before the `syscall` instruction that the thread is in."""
    return registers._replace(ax=registers.orig_ax, ip=registers.ip - 2, orig_ax=(1 << 64) - 1)


@cache
def frame_layout() -> "ffi.CData":
    """How a frame is built on this CPU: struct mg_borrowed."""
    return ffi.new("struct mg_borrowed *", (xcr0() & ~AMX_FEATURES, usable_size(), STACK_ROOM))


def frame_size(xstate_size: int) -> int:
    """Upper bound of what build_frame needs."""
    return int(lib.mg_frame_size(xstate_size))


def build_frame(state: ThreadState, address: int, restorer: int) -> bytes:
    """The frame for `address` (16-byte aligned), first word `restorer`; sigreturn on address + 8 gives `state`."""
    frame = ffi.new("unsigned char[]", frame_size(usable_size()))
    size = lib.mg_build_frame(ThreadBlock.of([state]).array, frame_layout(), address, restorer, frame)
    return bytes(ffi.buffer(frame, size))
