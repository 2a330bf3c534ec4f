"""A userfaultfd of a borrowed task, in our hands: made in it, duplicated to us and closed there, in one go."""

import os

from core.errors import TraceeError
from core.kernel.calls import pidfd_getfd
from core.kernel.threads import ThreadState
from core.plan.ops import Result, Syscall, Yield
from core.tracee.borrow import Borrow, Results

UFFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | 1  # UFFD_USER_MODE_ONLY: what an unprivileged target may have


def open_uffd(borrow: Borrow, thread: ThreadState, pidfd: int) -> int:
    """A userfaultfd of the mm of the stopped `thread`; ours to close. TraceeError."""
    opened = Syscall("userfaultfd", (UFFD_FLAGS,), "userfaultfd")
    closed = Syscall("close", (Result(opened),), "userfaultfd")
    ours: list[int] = []

    def take(results: Results) -> None:
        ours.append(pidfd_getfd(pidfd, results.value(opened)))

    try:
        borrow.run(thread, (opened, Yield("duplicate"), closed), at_yield=take, whole=True)
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    if not ours:
        raise TraceeError(thread.tid, "userfaultfd: could not be taken over")
    return ours[0]
