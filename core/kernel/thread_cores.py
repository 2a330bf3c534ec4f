"""Core images of many threads by native calls: who is alike, and each one's image in protobuf's wire format.

What threads have in common comes from the caller as bytes: see Pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from core.kernel.calls import uncleared
from core.kernel.thread_facts import AllFacts
from core.kernel.threads import ThreadBlock
from core.native._kernel import ffi, lib

MOST_GROUPS: Final = 64


class Pieces(NamedTuple):
    """Encoded fields that the threads of a group have alike; all but the last are fields of ThreadCoreEntry."""

    scheduled: bytes  # 3 to 5
    rights: bytes  # 8 to 12
    cgroup: bytes  # 16
    settings: bytes  # those behind xstate
    floating: bytes  # fpregs of ThreadInfoX86


class Places(NamedTuple):
    """Where in the answers of a thread something lies. `common`: what most threads have alike."""

    common: Sequence[tuple[int, int]]
    keyring: int
    clear_child_tid: int
    stack: int


@dataclass(frozen=True, slots=True)
class Sorted:
    """Which threads are alike: the first of every group, and who is in none. By index."""

    firsts: list[int]
    alone: list[int]


class Crowd:
    """Many threads of a process: all of `threads` from the `first` on, which everything else begins with."""

    def __init__(
        self, threads: ThreadBlock, first: int, facts: AllFacts, answers: "ffi.CData", answers_size: int,
        texts: Sequence[bytes], places: Places, xstate_most: int,
    ) -> None:  # fmt: skip
        self.count = len(threads) - first
        sizes = ffi.new("unsigned int[]", [len(text) for text in texts])
        content, common = ffi.from_buffer(b"".join(texts)), ffi.new("struct mg_range[]", places.common)
        self._kept = (threads, facts, answers, sizes, content, common)
        self._members = uncleared("struct mg_member[]", self.count)
        self._xstate_most = xstate_most
        one = self._native = ffi.new("struct mg_crowd *")
        one.count, one.answers_size, one.xstate_most = self.count, answers_size, xstate_most
        one.threads, one.facts, one.answers = threads.array + first, facts.array, answers
        one.texts, one.text_sizes, one.common, one.common_count = content, sizes, common, len(common)
        one.keyring, one.clear_child_tid, one.stack = places.keyring, places.clear_child_tid, places.stack

    def sort(self) -> Sorted:
        """Who is alike."""
        firsts = ffi.new("int[]", MOST_GROUPS)
        count = lib.mg_sort_crowd(self._native, self._members, firsts, MOST_GROUPS)
        alone = [index for index in range(self.count) if self._members[index].group < 0]
        return Sorted(ffi.unpack(firsts, count), alone)

    def encode(self, groups: Sequence[Pieces]) -> list[memoryview]:
        """The image of every thread, empty for those that are alone; `groups`: in the order of Sorted.firsts."""
        contents = [ffi.from_buffer(b"".join(pieces)) for pieces in groups]
        native = ffi.new("struct mg_alike[]", len(groups))
        for one, pieces, content in zip(native, groups, contents, strict=True):
            one.bytes, start = content, 0
            for index, piece in enumerate(pieces):
                one.pieces[index].start, one.pieces[index].size = start, len(piece)
                start += len(piece)
        each = self._xstate_most + lib.MG_CORE_ROOM + max(map(len, contents), default=0)
        buffer, spans = uncleared("unsigned char[]", self.count * each), uncleared("struct mg_slice[]", self.count)
        if lib.mg_encode_crowd(self._native, self._members, native, buffer, len(buffer), spans) < 0:
            raise OSError("core images: no room")  # cannot be: `each` is the most that one takes
        view = memoryview(ffi.buffer(buffer))
        words = ffi.unpack(ffi.cast("long long *", spans), 2 * self.count)
        return [view[start : start + size] for start, size in zip(words[::2], words[1::2], strict=True)]
