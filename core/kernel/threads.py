"""Threads as ptrace(2) tells of them: one by one as Python has them, and many as the native part has them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, NamedTuple, overload

from core.kernel.calls import uncleared
from core.kernel.xsave import area_size, xcr0
from core.native._kernel import ffi, lib


class Registers(NamedTuple):
    """General registers of a thread, unsigned 64-bit values as the kernel's user_regs_struct holds them."""

    r15: int
    r14: int
    r13: int
    r12: int
    bp: int
    bx: int
    r11: int
    r10: int
    r9: int
    r8: int
    ax: int
    cx: int
    dx: int
    si: int
    di: int
    orig_ax: int
    ip: int
    cs: int
    flags: int
    sp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int


REGISTER_NAMES: Final = Registers._fields  # struct user_regs_struct, in order. Source: asm/user_64.h


@dataclass(frozen=True, slots=True)
class Rseq:
    """A thread's rseq registration; address 0: none."""

    address: int
    size: int
    signature: int
    flags: int
    critical_section: int = 0  # address of the struct rseq_cs that the thread is or was in


@dataclass(frozen=True, slots=True)
class ThreadState:
    """What ptrace tells of a stopped thread. xstate is the xsave area in the standard format."""

    tid: int
    registers: Registers
    xstate: bytes
    sigmask: int
    rseq: Rseq
    robust_list: tuple[int, int]

    def with_registers(self, **changes: int) -> "ThreadState":
        """The same thread with some registers changed."""
        return replace(self, registers=self.registers._replace(**changes))


@cache
def _xstate_room() -> int:
    return -(-area_size(xcr0()) // 64) * 64


class ThreadBlock(Sequence[ThreadState]):
    """Threads in an array of struct mg_thread. A ThreadState is made of one when it is asked for."""

    def __init__(self, array: "ffi.CData", xstates: object) -> None:
        self.array = array
        self._xstates = xstates  # the array points into it
        self._states: dict[int, ThreadState] = {}

    @staticmethod
    def of_size(count: int) -> "ThreadBlock":
        """Room for `count` threads."""
        xstates = uncleared("unsigned char[]", count * _xstate_room())
        return ThreadBlock(ffi.new("struct mg_thread[]", count), xstates)

    @staticmethod
    def of(states: Sequence[ThreadState]) -> "ThreadBlock":
        """These threads."""
        xstates = [ffi.from_buffer(state.xstate) for state in states]
        block = ThreadBlock(ffi.new("struct mg_thread[]", len(states)), xstates)
        for index, (state, xstate) in enumerate(zip(states, xstates, strict=True)):
            raw = block.array[index]
            raw.tid, raw.sigmask, raw.xstate, raw.xstate_size = state.tid, state.sigmask, xstate, len(state.xstate)
            block.put(index, state)
        return block

    def fill(self, tids: Sequence[int]) -> int:
        """Read the stopped threads `tids`, as many as there is room for; how many could not be read."""
        return int(lib.mg_read_threads(ffi.new("int[]", tids), len(tids), self.array, self._xstates, _xstate_room()))

    @property
    def raws(self) -> "Iterator[ffi.CData]":
        """Every struct mg_thread."""
        return (self.array[index] for index in range(len(self)))

    @property
    def tids(self) -> list[int]:
        """Thread ids as we see them."""
        return [raw.tid for raw in self.raws]

    def disturbed(self) -> list[int]:
        """Indexes of those that show traces of a stop."""
        found = ffi.new("int[]", len(self))
        return [found[index] for index in range(lib.mg_find_disturbed(self.array, len(self), found))]

    def inside(self, spans: Iterable[tuple[int, int]]) -> list[int]:
        """Indexes of those whose instruction pointer is in one of `spans`."""
        found = ffi.new("int[]", len(self))
        return [
            found[index]
            for start, end in spans
            for index in range(lib.mg_find_inside(self.array, len(self), start, end, found))
        ]

    def put(self, index: int, state: ThreadState) -> None:
        """From now on a thread is `state`, which differs from what it was in its registers only."""
        self.array[index].regs = state.registers
        self._states[index] = state

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> ThreadState: ...

    @overload
    def __getitem__(self, index: slice) -> list[ThreadState]: ...

    def __getitem__(self, index: int | slice) -> ThreadState | list[ThreadState]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        if place not in self._states:
            self._states[place] = _thread_state(self.array[place])
        return self._states[place]


def registers_of(raw: "ffi.CData") -> Registers:
    """General registers in a struct mg_thread."""
    return Registers._make(ffi.unpack(raw.regs, len(REGISTER_NAMES)))


def calls_of(blocks: Iterable[ThreadBlock]) -> Iterator[tuple[int, int]]:
    """Number (2**64 - 1: none) and first argument of the system call that each thread was stopped in."""
    for block in blocks:
        for raw in block.raws:
            registers = registers_of(raw)
            yield registers.orig_ax, registers.di & 0xFFFFFFFF


def xstate_of(raw: "ffi.CData", most: int) -> bytes:
    """The first `most` bytes of its xsave area."""
    return bytes(ffi.buffer(raw.xstate, min(raw.xstate_size, most)))


def _thread_state(raw: "ffi.CData") -> ThreadState:
    return ThreadState(
        tid=raw.tid,
        registers=registers_of(raw),
        xstate=bytes(ffi.buffer(raw.xstate, raw.xstate_size)),
        sigmask=raw.sigmask,
        rseq=Rseq(raw.rseq_address, raw.rseq_size, raw.rseq_signature, raw.rseq_flags, raw.rseq_critical_section),
        robust_list=(raw.robust_head, raw.robust_len),
    )
