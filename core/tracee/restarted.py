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
MOV_EAX: Final = {b"\xb8" + struct.pack("<I", SYSCALLS[name]): name for name in NAMES}
MOV_EDI: Final = {b"\xbf" + struct.pack("<I", SYSCALLS[name]): name for name in NAMES}
LOOK_BACK: Final = 32
CALLER_LOOK_BACK: Final = 64  # the other arguments of syscall(3) may be loaded between its number and the call
SYSCALL_3: Final = b"\x48\x89\xf8\x48\x89\xf7"  # mov %rdi, %rax; mov %rsi, %rdi: libc's function, without a frame
LOWEST_POINTER: Final = 0x10000  # vm.mmap_min_addr
FUTEX_WAIT: Final = 0
FUTEX_WAITS: Final = frozenset({FUTEX_WAIT, 128, 9, 137, 256 | 9, 256 | 137})  # WAIT, WAIT_BITSET; PRIVATE, REALTIME
TIMESPEC: Final = struct.Struct("<qq")
LONGEST_S: Final = 1 << 32  # from here on it is a struct pollfd that says what to wait for
SECOND_NS: Final = 1_000_000_000

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
    """By the code before the `syscall` instruction, which loads the number, or before the call of syscall(3); else
    (a number that is computed, as of libc's calls that a thread may be cancelled in) by the arguments."""
    code = _read(read, instruction - LOOK_BACK, LOOK_BACK)
    name = _last(code, MOV_EAX)
    if name is None and SYSCALL_3 in code:
        caller = int.from_bytes(_read(read, registers.sp, 8), "little")
        name = _last(_read(read, caller - CALLER_LOOK_BACK, CALLER_LOOK_BACK), MOV_EDI)
        if name and not _takes(name, registers, read):  # it belongs to another call before this one
            name = None
    return SYSCALLS[name or _by_arguments(registers, read)]


def _last(code: bytes, loads: dict[bytes, str]) -> str | None:
    position, name = max((code.rfind(pattern), name) for pattern, name in loads.items())
    return name if position >= 0 else None


def _read(read: Read, address: int, size: int) -> bytes:
    try:
        return read(address, size) if address >= LOWEST_POINTER else b""
    except (TraceeError, OverflowError):
        return b""


def _takes(name: str, registers: Registers, read: Read) -> bool:
    """Could the call have been made with these arguments, and wait?"""
    match name:
        case "nanosleep":
            return _is_time(read, registers.di)
        case "clock_nanosleep":
            return _is_time(read, registers.dx)
        case "futex":
            return registers.si in FUTEX_WAITS and _is_time(read, registers.r10)
        case _:
            return True


def _by_arguments(registers: Registers, read: Read) -> str:
    """What takes these. Registers that a call has no argument in hold anything, also pointers."""
    negative = registers.di >> 31 in (1, (1 << 33) - 1)  # a 32-bit one: the clock of a process or thread
    if registers.di < LOWEST_POINTER or negative:  # a clock, or no poll descriptors at all
        return "clock_nanosleep" if _takes("clock_nanosleep", registers, read) else "poll"
    if _takes("futex", registers, read):
        word = _read(read, registers.di, 4)
        if registers.si != FUTEX_WAIT or word == struct.pack("<I", registers.dx & 0xFFFFFFFF):
            return "futex"
    if registers.si >= LOWEST_POINTER:
        return "nanosleep"
    may_poll = registers.si or (registers.dx & 0xFFFFFFFF and not _is_time(read, registers.di))
    return "poll" if may_poll else "nanosleep"


def _is_time(read: Read, address: int) -> bool:
    """A struct timespec that somebody would wait for."""
    content = _read(read, address, TIMESPEC.size)
    if len(content) != TIMESPEC.size:
        return False
    seconds, nanoseconds = TIMESPEC.unpack(content)
    return 0 <= seconds < LONGEST_S and 0 <= nanoseconds < SECOND_NS and (seconds, nanoseconds) != (0, 0)
