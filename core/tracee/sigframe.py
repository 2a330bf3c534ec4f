"""Builds the rt_sigframe by which a borrowed thread comes back to itself, should we die. Pure.

Layout: asm/sigcontext.h and asm/ucontext.h of x86-64.
"""

import struct
from dataclasses import replace
from typing import Final

from core.kernel.ptrace import Registers, ThreadState
from core.kernel.xsave import AMX_FEATURES, usable_size, xcr0

UC_FLAGS: Final = 0x7  # FP_XSTATE | SIGCONTEXT_SS | STRICT_RESTORE_SS
KEEP_ALTSTACK: Final = 0x7F  # flags that sigaltstack(2) refuses, so sigreturn leaves the stack as it is
FP_XSTATE_MAGIC1: Final = 0x46505853
FP_XSTATE_MAGIC2: Final = 0x46505845
FRAME_WITHOUT_FPU: Final = 8 + 304 + 128 + 8
FPU_ALIGNMENT: Final = 64

RESTARTS: Final = frozenset({-512, -513, -514, -516})  # ERESTARTSYS, NOINTR, NOHAND, RESTART_RESTARTBLOCK
EINTR: Final = -4


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


def made_again(registers: Registers) -> Registers:
    """Registers just before the `syscall` instruction that the thread is in."""
    return replace(registers, ax=registers.orig_ax, ip=registers.ip - 2, orig_ax=(1 << 64) - 1)


def frame_size(xstate_size: int) -> int:
    """Upper bound of what build_frame needs."""
    return FRAME_WITHOUT_FPU + FPU_ALIGNMENT + xstate_size + 4 + 16


def build_frame(state: ThreadState, address: int, restorer: int) -> bytes:
    """The frame for `address` (16-byte aligned), first word `restorer`; sigreturn on address + 8 gives `state`."""
    size = min(usable_size(), len(state.xstate))
    fpu_address = -(-(address + FRAME_WITHOUT_FPU) // FPU_ALIGNMENT) * FPU_ALIGNMENT
    head = struct.pack("<Q", restorer) + _ucontext(rewound(state.registers), fpu_address, state.sigmask)
    padding = bytes(fpu_address - address - len(head))
    return head + padding + _fpstate(state.xstate[:size], xcr0() & ~AMX_FEATURES)


def _ucontext(registers: Registers, fpu_address: int, sigmask: int) -> bytes:
    r = registers
    general = (r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.di, r.si, r.bp, r.bx, r.dx, r.ax, r.cx)
    return (
        struct.pack("<QQQiiQ", UC_FLAGS, 0, 0, KEEP_ALTSTACK, 0, 0)
        + struct.pack("<18Q", *general, r.sp, r.ip, r.flags)
        + struct.pack("<4H", r.cs, r.gs, r.fs, r.ss)
        + struct.pack("<4QQ8Q", 0, 0, 0, 0, fpu_address, *[0] * 8)
        + struct.pack("<Q", sigmask)
    )


def _fpstate(xstate: bytes, xfeatures: int) -> bytes:
    software = struct.pack("<IIQI28x", FP_XSTATE_MAGIC1, len(xstate) + 4, xfeatures, len(xstate))
    return xstate[:464] + software + xstate[512:] + struct.pack("<I", FP_XSTATE_MAGIC2)
