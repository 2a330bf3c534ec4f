"""Finds out which system call a thread is in that the kernel has made into restart_syscall(2).

After any stop of a wait with a timeout the kernel goes on with restart_syscall, which only works in that thread, on
that host, and not after a sigreturn. Whoever makes the call anew needs its number; the arguments are all there.
"""

import struct
from collections.abc import Callable
from typing import Final

from core.errors import TraceeError
from core.kernel.calls import SYSCALLS
from core.kernel.threads import Registers
from core.tracee.sigframe import signed

RESTART_SYSCALL: Final = 219
RESTARTBLOCK: Final = -516
SYSCALL: Final = b"\x0f\x05"
# The only calls that wait by a restart block; each kernel function that sets one belongs to them.
NAMES: Final = ("poll", "nanosleep", "futex", "clock_nanosleep")
MOV_EAX: Final = {b"\xb8" + struct.pack("<I", SYSCALLS[name]): SYSCALLS[name] for name in NAMES}
LOOK_BACK: Final = 32
LOWEST_POINTER: Final = 0x10000  # vm.mmap_min_addr
FUTEX_WAITS: Final = frozenset({128, 9, 137, 256 | 128, 256 | 9, 256 | 137})  # WAIT, WAIT_BITSET; PRIVATE, REALTIME

Read = Callable[[int, int], bytes]


def under_its_own_name(registers: Registers, read: Read) -> Registers:
    """The same with the real system call in place of restart_syscall; unchanged when there is none.

    `read` is (address, size) → bytes of the thread's memory, TraceeError where it cannot.
    """
    if registers.orig_ax == RESTART_SYSCALL and signed(registers.ax) == RESTARTBLOCK:
        return registers._replace(orig_ax=_number(registers, registers.ip - len(SYSCALL), read))
    if registers.ax == RESTART_SYSCALL and _read(read, registers.ip, len(SYSCALL)) == SYSCALL:
        number = _number(registers, registers.ip, read)  # stopped once more just before the instruction
        return registers._replace(ax=number, orig_ax=(1 << 64) - 1)
    return registers


def _number(registers: Registers, instruction: int, read: Read) -> int:
    """By the code before the `syscall` instruction, which loads the number; else (syscall(3)) by the arguments."""
    code = _read(read, instruction - LOOK_BACK, LOOK_BACK)
    position, number = max((code.rfind(pattern), number) for pattern, number in MOV_EAX.items())
    return number if position >= 0 else SYSCALLS[_by_arguments(registers)]


def _read(read: Read, address: int, size: int) -> bytes:
    try:
        return read(address, size)
    except TraceeError:
        return b""


def _by_arguments(registers: Registers) -> str:
    if registers.di < LOWEST_POINTER:  # a clock, or no poll descriptors at all
        return "clock_nanosleep" if registers.dx >= LOWEST_POINTER else "poll"
    if registers.si in FUTEX_WAITS and registers.r10 >= LOWEST_POINTER:
        return "futex"
    return "nanosleep" if registers.si == 0 or registers.si >= LOWEST_POINTER else "poll"
