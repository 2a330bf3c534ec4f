"""Statuses of all threads of a process, which are thousands at times: each is parsed when it is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from core.errors import CollectError
from core.proc.brief import BriefStatus, parse_brief

OWN_TID, NEXT = b"\nNSpid:\t", b"\nNSpgid:\t"


class Statuses(Mapping[int, BriefStatus]):
    """By tid as we see it; CollectError when one that is asked for is no status."""

    def __init__(self, texts: Mapping[int, bytes]) -> None:
        self._texts = texts
        self._parsed: dict[int, BriefStatus] = {}

    def __getitem__(self, tid: int) -> BriefStatus:
        if tid not in self._parsed:
            self._parsed[tid] = parse_brief(self._texts[tid])
        return self._parsed[tid]

    def __iter__(self) -> Iterator[int]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def texts(self, tids: Sequence[int]) -> list[bytes]:
        """As the kernel has written them."""
        return [self._texts[tid] for tid in tids]

    @cached_property
    def own_tids(self) -> dict[int, int]:
        """What each one calls itself. Threads of a process are in one PID namespace."""
        first = next(iter(self._texts.values()), b"")
        if first.count(b"\t", first.find(OWN_TID), first.find(NEXT)) == 1:
            return {tid: tid for tid in self._texts}
        return {tid: _own_tid(text) for tid, text in self._texts.items()}


def _own_tid(text: bytes) -> int:
    try:
        return int(text[text.index(OWN_TID) + len(OWN_TID) : text.index(NEXT)].rpartition(b"\t")[2])
    except ValueError:
        raise CollectError("status", "is not as the kernel writes it") from None
