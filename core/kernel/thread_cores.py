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
    """Where in what a thread has said lies what is its own: an address, and a stack_t."""

    clear_child_tid: int
    stack: int


@dataclass(frozen=True, slots=True)
class Told:
    """What everything else tells of threads that were asked. `texts`: their statuses; `common`: where in the answers of
    each is what most have alike; `keyring`: where a result."""

    facts: AllFacts
    texts: Sequence[bytes]
    common: Sequence[tuple[int, int]]
    keyring: int


@dataclass(frozen=True, slots=True)
class Sorted:
    """Which threads are alike: the first of every group, and who is in none. By index."""

    firsts: list[int]
    alone: list[int]


class Crowd:
    """Many threads of a process: all of `threads` from the `first` on, which everything else begins with. `answers`:
    what each has said, or its struct mg_record."""

    def __init__(
        self,
        threads: ThreadBlock,
        first: int,
        answers: "ffi.CData",
        answers_size: int,
        places: Places,
        xstate_most: int,
    ) -> None:
        self.count = len(threads) - first
        self._kept: tuple[object, ...] = (threads, answers)
        self._members = uncleared("struct mg_member[]", self.count)
        self._xstate_most = xstate_most
        one = self._native = ffi.new("struct mg_crowd *")
        one.count, one.answers_size, one.xstate_most = self.count, answers_size, xstate_most
        one.threads, one.answers = threads.array + first, answers
        one.clear_child_tid, one.stack = places.clear_child_tid, places.stack

    def sort(self, told: Told) -> Sorted:
        """Who is alike by what was asked of everyone."""
        sizes = ffi.new("unsigned int[]", [len(text) for text in told.texts])
        content, common = ffi.from_buffer(b"".join(told.texts)), ffi.new("struct mg_range[]", told.common)
        one = ffi.new("struct mg_told *")
        one.facts, one.texts, one.text_sizes = told.facts.array, content, sizes
        one.common, one.common_count, one.keyring = common, len(common), told.keyring
        self._kept += (told, sizes, content, common)
        firsts = ffi.new("int[]", MOST_GROUPS)
        return self._sorted(firsts, lib.mg_sort_crowd(self._native, one, self._members, firsts, MOST_GROUPS))

    def sort_records(self) -> Sorted:
        """Who is alike by what the kernel has of them."""
        firsts = ffi.new("int[]", MOST_GROUPS)
        return self._sorted(firsts, lib.mg_sort_records(self._native, self._members, firsts, MOST_GROUPS))

    def _sorted(self, firsts: "ffi.CData", count: int) -> Sorted:
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
        if lib.mg_encode_crowd(self._native, self._members, native, buffer, each, spans) < 0:
            raise OSError("core images: no room")  # cannot be: `each` is the most that one takes
        view = memoryview(ffi.buffer(buffer))
        words = ffi.unpack(ffi.cast("long long *", spans), 2 * self.count)
        return [view[start : start + size] for start, size in zip(words[::2], words[1::2], strict=True)]
