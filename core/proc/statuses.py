"""Statuses of all threads of a process, which are thousands at times: each is parsed when it is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

from core.errors import CollectError
from core.kernel.thread_records import Records
from core.proc.brief import BriefStatus, parse_brief

OWN_TID, NEXT = b"\nNSpid:\t", b"\nNSpgid:\t"


Read = Callable[[Sequence[int]], Sequence[bytes]]


class Statuses(Mapping[int, BriefStatus]):
    """By tid as we see it; CollectError when one that is asked for is no status. `records`: what the kernel has of each
    where it tells, and the texts are `read` as they are asked for."""

    def __init__(self, texts: Mapping[int, bytes], records: Records | None = None, read: Read | None = None) -> None:
        self._texts, self._read = dict(texts), read
        self.records = records
        self._parsed: dict[int, BriefStatus] = {}

    def __getitem__(self, tid: int) -> BriefStatus:
        if tid not in self._parsed:
            self._parsed[tid] = parse_brief(self.texts([tid])[0])
        return self._parsed[tid]

    def __iter__(self) -> Iterator[int]:
        return iter(self.own_tids)

    def __len__(self) -> int:
        return len(self.own_tids)

    def texts(self, tids: Sequence[int]) -> list[bytes]:
        """As the kernel has written them."""
        if self._read is not None and (missing := [tid for tid in tids if tid not in self._texts]):
            self._texts.update(zip(missing, self._read(missing), strict=True))
        return [self._texts[tid] for tid in tids]

    @property
    def share_tables(self) -> bool:
        """They are known to have one descriptor table, one working directory and one umask."""
        return self.records is not None and self.records.share_tables

    @cached_property
    def own_tids(self) -> dict[int, int]:
        """What each one calls itself. Threads of a process are in one PID namespace."""
        if self.records is not None:
            return self.records.own_tids
        first = next(iter(self._texts.values()), b"")
        if first.count(b"\t", first.find(OWN_TID), first.find(NEXT)) == 1:
            return {tid: tid for tid in self._texts}
        return {tid: _own_tid(text) for tid, text in self._texts.items()}


def _own_tid(text: bytes) -> int:
    try:
        return int(text[text.index(OWN_TID) + len(OWN_TID) : text.index(NEXT)].rpartition(b"\t")[2])
    except ValueError:
        raise CollectError("status", "is not as the kernel writes it") from None
