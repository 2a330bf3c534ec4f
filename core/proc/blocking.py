"""Which system calls the threads of running processes are blocked in."""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from core.errors import CollectError
from core.proc.reader import ProcReader


def blocking_calls(pids: Iterable[int], reader: ProcReader) -> Iterator[tuple[int, int]]:
    """Number and first argument (its lower 32 bits); of those that have ended meanwhile, or run, nothing."""
    for pid in pids:
        with suppress(OSError, CollectError):
            for tid in reader.tids(pid):
                yield from _blocking_call(pid, tid, reader)


def _blocking_call(pid: int, tid: int, reader: ProcReader) -> Iterator[tuple[int, int]]:
    with suppress(OSError, CollectError):
        words = reader.syscall(pid, tid).split()
        if len(words) > 1 and words[0].isdigit():
            yield int(words[0]), int(words[1], 16) & 0xFFFFFFFF
