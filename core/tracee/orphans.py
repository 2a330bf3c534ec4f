"""Takes over the children of tasks that we end, so that we reap them: until somebody has, their PIDs stay taken."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from core.kernel.calls import address_of, syscall

PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_CHILD_SUBREAPER: Final = 37
WALL: Final = 0x40000000


@contextmanager
def reaping(pids: Sequence[int]) -> Iterator[None]:
    """Whoever of `pids` is ended and orphaned within is reaped at the end. All of them must have ended by then."""
    before = bytearray(4)
    syscall("prctl", PR_GET_CHILD_SUBREAPER, address_of(before), 0, 0, 0)
    syscall("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
        for pid in pids:
            with suppress(ChildProcessError):  # another one's, who has reaped it or will
                os.waitpid(pid, WALL | os.WNOHANG)
    finally:
        syscall("prctl", PR_SET_CHILD_SUBREAPER, int(any(before)), 0, 0, 0)
