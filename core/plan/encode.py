"""Turns a program into the bytes that the interpreter blob runs at a given address. Pure.

Layout: struct mg_op array (the program, a last yield, the end), then the buffers that arguments point at.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from core.kernel.calls import SYSCALLS
from core.plan.ops import Argument, Out, Pointers, Result, Syscall, Yield

OP: Final = struct.Struct("<Q6QQq")
MAY_FAIL: Final = 0x100
END: Final = 0xFFFFFFFFFFFFFFFF
NOT_RUN: Final = -(1 << 63)
ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class Encoded:
    """A program for one address: `content` goes to `base`; `outs`: where each Out buffer lies, by (op, argument)."""

    base: int
    content: bytes
    op_count: int
    outs: dict[tuple[int, int], tuple[int, int]]

    @property
    def tail(self) -> int:
        """Address of the op that runs last, also after a failure: the yield to the tracer."""
        return self.base + self.op_count * OP.size

    def op_index(self, address: int) -> int:
        """Which op an op pointer of the interpreter means."""
        return (address - self.base) // OP.size


class _Buffers:
    """Collects buffers behind the ops and gives their addresses."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._parts: list[bytes] = []

    def place(self, content: bytes) -> int:
        address = self._next
        padded = content + bytes(-len(content) % ALIGNMENT)
        self._parts.append(padded)
        self._next += len(padded)
        return address

    def joined(self) -> bytes:
        return b"".join(self._parts)


def encode(program: Sequence[Syscall | Yield], base: int, tid: int, yield_signal: int) -> Encoded:
    """Bytes of `program` at `base` for the task that calls itself `tid`; it yields by sending itself `yield_signal`."""
    count = len(program)
    buffers = _Buffers(base + (count + 2) * OP.size)
    index_of = {id(op): index for index, op in enumerate(program)}
    outs: dict[tuple[int, int], tuple[int, int]] = {}
    records: list[bytes] = []
    for index, op in enumerate(program):
        if isinstance(op, Yield):
            records.append(_yield_record(tid, yield_signal))
            continue
        flags = MAY_FAIL if op.may_fail else 0
        words: list[int] = []
        for position, argument in enumerate(op.args):
            if isinstance(argument, Result):
                flags |= 1 << position
                words.append(_earlier(index_of, argument, index))
            else:
                words.append(_word(argument, buffers))
            if isinstance(argument, Out):
                outs[index, position] = (words[-1], argument.size)
        words += [0] * (6 - len(words))
        records.append(OP.pack(SYSCALLS[op.name], *words, flags, NOT_RUN))
    records += [_yield_record(tid, yield_signal), OP.pack(END, *[0] * 6, 0, 0)]
    return Encoded(base, b"".join(records) + buffers.joined(), count, outs)


def _yield_record(tid: int, signal_number: int) -> bytes:
    return OP.pack(SYSCALLS["tkill"], tid, signal_number, 0, 0, 0, 0, MAY_FAIL, NOT_RUN)


def _earlier(index_of: dict[int, int], argument: Result, index: int) -> int:
    earlier = index_of[id(argument.op)]
    if earlier >= index:
        raise ValueError(f"op {index} uses the result of op {earlier}, which comes later")
    return earlier


def _word(argument: Argument, buffers: _Buffers) -> int:
    match argument:
        case int():
            return argument & 0xFFFFFFFFFFFFFFFF
        case bytes():
            return buffers.place(argument)
        case Out(size=size):
            return buffers.place(bytes(size))
        case Pointers(words=words):
            return buffers.place(struct.pack(f"<{len(words)}Q", *(_word(word, buffers) for word in words)))
        case Result():
            raise ValueError("a result can only be a direct argument")


def encoded_size(program: Sequence[Syscall | Yield]) -> int:
    """How many bytes `program` takes."""
    return len(encode(program, 0, 0, 0).content)


def split(program: Sequence[Syscall], max_bytes: int) -> Iterator[tuple[Syscall, ...]]:
    """The program in parts of about `max_bytes`, cut where no op needs a result from before; larger where it must."""
    place = {id(op): index for index, op in enumerate(program)}
    needed_until = list(range(len(program)))
    for index, op in enumerate(program):
        for argument in op.args:
            if isinstance(argument, Result):
                needed_until[place[id(argument.op)]] = index
    part: list[Syscall] = []
    size, bound = 0, -1
    for index, op in enumerate(program):
        op_bytes = encoded_size((replace(op, args=tuple(_without_result(argument) for argument in op.args)),))
        if part and bound < index and size + op_bytes > max_bytes:
            yield tuple(part)
            part, size = [], 0
        part.append(op)
        size += op_bytes
        bound = max(bound, needed_until[index])
    if part:
        yield tuple(part)


def _without_result(argument: Argument) -> Argument:
    return 0 if isinstance(argument, Result) else argument


def op_results(content: bytes, op_count: int) -> tuple[int, ...]:
    """Results of the first `op_count` ops, read back from the task's memory; NOT_RUN where none."""
    return tuple(OP.unpack_from(content, index * OP.size)[8] for index in range(op_count))
