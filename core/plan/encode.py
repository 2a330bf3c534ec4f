"""Turns a program into the bytes that the interpreter blob runs at a given address. Pure.

Layout: struct mg_op array (the program, a last yield, the end), then the buffers that arguments point at.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.kernel.calls import SYSCALLS
from core.plan.ops import Argument, Loaded, Out, Pointers, Result, Syscall, Yield

OP: Final = struct.Struct("<Q6QQq")
WORD: Final = struct.Struct("<Q")
MAY_FAIL: Final = 0x100
LOADED: Final = 0x10000
WIDE: Final = 0x1000000
END: Final = 0xFFFFFFFFFFFFFFFF
NOT_RUN: Final = -(1 << 63)
ALIGNMENT: Final = 16
RESULT: Final = OP.size - 8  # where in an op its result is
RESULT_WORD: Final = struct.Struct("<q")
YIELD: Final = OP.pack(SYSCALLS["tkill"], 0, 0, 0, 0, 0, 0, MAY_FAIL, NOT_RUN)
THE_END: Final = OP.pack(END, *[0] * 6, 0, 0)

Steps = Sequence[Syscall | Yield]


@dataclass(frozen=True, slots=True)
class Template:
    """A program for no address and nobody yet. All places are offsets into `content`."""

    content: bytes
    op_count: int
    addresses: tuple[int, ...]  # of words that count from the program's start
    yields: tuple[int, ...]  # indexes of ops that report to the tracer
    outs: dict[tuple[int, int], tuple[int, int]]  # (op, argument) → place and size of its Out buffer
    must_succeed: tuple[int, ...]  # indexes of ops that may not fail
    places: dict[int, int]  # id of an op → its index; the ops live as long as `steps`
    steps: Steps

    def at(self, base: int, tid: int, yield_signal: int) -> "Encoded":
        """The same at `base` for the task that calls itself `tid`."""
        content = bytearray(self.content)
        for place in self.addresses:
            WORD.pack_into(content, place, WORD.unpack_from(content, place)[0] + base)
        for index in self.yields:
            struct.pack_into("<2Q", content, index * OP.size + 8, tid, yield_signal)
        outs = {key: (base + place, size) for key, (place, size) in self.outs.items()}
        return Encoded(base, bytes(content), self.op_count, outs)


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
    """Collects buffers behind the ops, gives their places, and notes every word that is one."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._parts: list[bytes] = []
        self.addresses: list[int] = []

    def place(self, content: bytes) -> int:
        place = self._next
        padded = content.ljust(max(-(-len(content) // ALIGNMENT), 1) * ALIGNMENT, b"\0")
        self._parts.append(padded)
        self._next += len(padded)
        return place

    def place_words(self, words: Sequence[tuple[int, bool]]) -> int:
        """A buffer of words, each with whether it is a place itself."""
        place = self.place(struct.pack(f"<{len(words)}Q", *(word for word, _ in words)))
        self.addresses += [place + 8 * index for index, (_, is_place) in enumerate(words) if is_place]
        return place

    def joined(self) -> bytes:
        return b"".join(self._parts)


def assemble(program: Steps) -> Template:
    """`program` ready to be put anywhere."""
    count = len(program)
    buffers = _Buffers((count + 2) * OP.size)
    index_of = {id(op): index for index, op in enumerate(program)}
    outs: dict[tuple[int, int], tuple[int, int]] = {}
    records: list[bytes] = []
    yields: list[int] = []
    must_succeed: list[int] = []
    for index, op in enumerate(program):
        if isinstance(op, Yield):
            records.append(YIELD)
            yields.append(index)
            continue
        flags = MAY_FAIL if op.may_fail else 0
        if not op.may_fail:
            must_succeed.append(index)
        words: list[int] = []
        for position, argument in enumerate(op.args):
            if isinstance(argument, int):
                words.append(argument & 0xFFFFFFFFFFFFFFFF)
                continue
            if isinstance(argument, Result):
                flags |= 1 << position
                words.append(_earlier(index_of, argument, index))
                continue
            if isinstance(argument, Loaded):
                flags |= (WIDE if argument.wide else LOADED) << position
                words.append(outs[index_of[id(argument.op)], argument.argument][0] + argument.offset)
            else:
                words.append(_place(argument, buffers))
            buffers.addresses.append(index * OP.size + 8 * (1 + position))
            if isinstance(argument, Out):
                outs[index, position] = (words[-1], argument.size)
        words += [0] * (6 - len(words))
        records.append(OP.pack(SYSCALLS[op.name], *words, flags, NOT_RUN))
    content = b"".join([*records, YIELD, THE_END, buffers.joined()])
    return Template(
        content, count, tuple(buffers.addresses), (*yields, count), outs, tuple(must_succeed), index_of, program
    )


@lru_cache(maxsize=64)
def assembled(program: tuple[Syscall | Yield, ...]) -> Template:
    """assemble() of a program that is run again and again."""
    return assemble(program)


def encode(program: Steps, base: int, tid: int, yield_signal: int) -> Encoded:
    """Bytes of `program` at `base` for the task that calls itself `tid`; it yields by sending itself `yield_signal`."""
    return assemble(program).at(base, tid, yield_signal)


def _earlier(index_of: dict[int, int], argument: Result, index: int) -> int:
    earlier = index_of[id(argument.op)]
    if earlier >= index:
        raise ValueError(f"op {index} uses the result of op {earlier}, which comes later")
    return earlier


def _place(argument: Argument, buffers: _Buffers) -> int:
    match argument:
        case bytes():
            return buffers.place(argument)
        case Out(size=size, fill=fill):
            return buffers.place(bytes([fill]) * size)
        case Pointers(words=words):
            return buffers.place_words([_word(word, buffers) for word in words])
        case _:
            raise ValueError("a result can only be a direct argument")


def _word(argument: Argument, buffers: _Buffers) -> tuple[int, bool]:
    """A word of a struct, and whether it is the place of a buffer."""
    if isinstance(argument, int):
        return argument & 0xFFFFFFFFFFFFFFFF, False
    return _place(argument, buffers), True


def encoded_size(program: Steps) -> int:
    """How many bytes `program` takes."""
    buffers = sum(_buffer_bytes(argument) for op in program for argument in _args(op))
    return (len(program) + 2) * OP.size + buffers


def _args(op: Syscall | Yield) -> tuple[Argument, ...]:
    return op.args if isinstance(op, Syscall) else ()


def _buffer_bytes(argument: Argument) -> int:
    match argument:
        case bytes():
            return max(-(-len(argument) // ALIGNMENT), 1) * ALIGNMENT
        case Out(size=size):
            return max(-(-size // ALIGNMENT), 1) * ALIGNMENT
        case Pointers(words=words):
            return max(-(-8 * len(words) // ALIGNMENT), 1) * ALIGNMENT + sum(map(_buffer_bytes, words))
        case _:
            return 0


def split(program: tuple[Syscall, ...], max_bytes: int) -> Iterator[tuple[Syscall, ...]]:
    """The program in parts of about `max_bytes`, cut where no op needs a result from before; larger where it must."""
    if encoded_size(program) <= max_bytes:
        if program:
            yield program
        return
    place = {id(op): index for index, op in enumerate(program)}
    needed_until = list(range(len(program)))
    for index, op in enumerate(program):
        for argument in op.args:
            if isinstance(argument, Result | Loaded):
                needed_until[place[id(argument.op)]] = index
    part: list[Syscall] = []
    size, bound = 0, -1
    for index, op in enumerate(program):
        op_bytes = encoded_size((op,))
        if part and bound < index and size + op_bytes > max_bytes:
            yield tuple(part)
            part, size = [], 0
        part.append(op)
        size += op_bytes
        bound = max(bound, needed_until[index])
    if part:
        yield tuple(part)
