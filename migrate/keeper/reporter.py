"""What a keeper tells of pages on their way, not too often, and of what it attached to."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from migrate.pb import control_pb2 as pb

PROGRESS_EVERY_S = 0.1


class Reporter:
    """Progress at most every PROGRESS_EVERY_S."""

    def __init__(self, send: Callable[[pb.Progress], None], total_pages: int) -> None:
        self._send = send
        self._total = total_pages
        self._last = time.monotonic()
        self._pages = self._bytes = 0

    def add(self, pages: int, sent_bytes: int) -> None:
        """One process is done: what is told from here on is of the next."""
        self._pages += pages
        self._bytes += sent_bytes

    def __call__(self, pages: int, sent_bytes: int) -> None:
        now = time.monotonic()
        if now - self._last >= PROGRESS_EVERY_S:
            self._last = now
            self._send(
                pb.Progress(
                    phase="pages",
                    done_pages=self._pages + pages,
                    total_pages=self._total,
                    sent_bytes=self._bytes + sent_bytes,
                )
            )


def count_all(read: Callable[[int], Sequence[int]], pids: Iterable[int]) -> int:
    """How many there are of all; those who end meanwhile have none."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += len(read(pid))
    return total
