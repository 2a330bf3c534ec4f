"""The end of processes in a live source: killed, as their copies run elsewhere, or given back. Decides nothing."""

import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from core.errors import TraceeError
from core.kernel import ptrace
from core.live.process import LiveProcess
from core.live.sharers import Sharer

EXIT_DEADLINE_S = 30.0


def end_all(processes: Sequence[LiveProcess | Sharer]) -> None:
    """Kill them, parents before children in `processes`; returns when all are gone. TraceeError: one stays."""
    poll = select.poll()
    for process in processes:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process.prepared.process_fd, signal.SIGKILL)
        poll.register(process.prepared.process_fd, select.POLLIN)
    deadline = time.monotonic() + EXIT_DEADLINE_S
    for process in reversed(processes):
        if process.frozen is not None:
            ptrace.reap_killed(process.frozen.tids)
            process.frozen = None
    left = len(processes)
    while left:
        ended = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ended:
            raise TraceeError(processes[0].prepared.tgid, "was killed but does not go away")
        for fd, _ in ended:
            poll.unregister(fd)
            left -= 1


def give_back_all(processes: Sequence[LiveProcess]) -> float:
    """Let all of them run as they were, then end the tracking; each is tried, whatever becomes of another. Returns when
    the last of them ran, by time.monotonic()."""
    try:
        _each(LiveProcess.let_go, processes)
        return time.monotonic()
    finally:
        _each(LiveProcess.close, processes)


def _each(action: Callable[[LiveProcess], None], processes: Sequence[LiveProcess]) -> None:
    for index, process in enumerate(processes):
        try:
            action(process)
        except BaseException:
            _each(action, processes[index + 1 :])
            raise
