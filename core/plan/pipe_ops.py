"""Ops that put content into a fresh pipe or FIFO: its size first, then piece by piece. Pure."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from core.errors import ImageError
from core.images.pb.descriptors_pb2 import PipeDataEntry
from core.plan.ops import Program, Syscall

DEFAULT_SIZE: Final = 65536
WRITE_SIZE: Final = 65536


@dataclass(frozen=True, slots=True)
class PipeContent:
    """What a pipe holds and how much it can hold."""

    entry: PipeDataEntry
    payload: bytes

    def pieces(self) -> Iterator[bytes]:
        """What is written at once: packets, or parts of a stream."""
        if sum(self.entry.packets) not in (0, len(self.payload)):
            raise ImageError("pipes-data.img", f"pipe {self.entry.pipe_id}: its packets are not its content")
        start = 0
        for length in self.entry.packets or (WRITE_SIZE,) * -(-len(self.payload) // WRITE_SIZE):
            yield self.payload[start : start + length]
            start += length


def plan_content(writing: int, flags: int, content: PipeContent | None, why: str) -> Program:
    """Size and content by the end `writing`, whose status flags are `flags`, while the other end exists."""
    if content is None:
        return ()
    ops: list[Syscall] = []
    if content.entry.size and content.entry.size != DEFAULT_SIZE:
        ops.append(Syscall("fcntl", (writing, fcntl.F_SETPIPE_SZ, content.entry.size), f"{why}: size"))
    packets = bool(content.entry.packets)
    if packets:
        ops.append(Syscall("fcntl", (writing, fcntl.F_SETFL, flags | os.O_DIRECT), f"{why}: packets"))
    ops += [Syscall("write", (writing, piece, len(piece)), f"{why}: contents") for piece in content.pieces()]
    if packets:
        ops.append(Syscall("fcntl", (writing, fcntl.F_SETFL, flags), f"{why}: no packets"))
    return tuple(ops)
