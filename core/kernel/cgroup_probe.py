"""Whether a cgroup of ours can hold a freeze: makes one below our own, freezes a child in it, removes it."""

import contextlib
import os
import select
import time
from typing import Final

from core.proc.reader import ProcReader

DEADLINE_S: Final = 2.0


def probe_freezer(reader: ProcReader, mount: str, child: int) -> bool:
    """Move `child` (ours to kill) into a new cgroup, freeze and thaw it. OSError when something is not allowed."""
    own = reader.cgroup2(os.getpid())
    if own is None:
        return False
    home = f"{mount}{own}".rstrip("/")
    group = f"{home}/migrate-probe-{os.getpid()}-{child}"
    os.mkdir(group)
    try:
        _write(f"{group}/cgroup.procs", str(child))
        _write(f"{group}/cgroup.freeze", "1")
        frozen = _wait_frozen(f"{group}/cgroup.events")
        _write(f"{group}/cgroup.freeze", "0")
        _write(f"{home}/cgroup.procs", str(child))
        return frozen
    finally:
        _leave(group, home, child)


def _leave(group: str, home: str, child: int) -> None:
    """Nobody is left in the group when this is reached, unless a step failed: then the child goes home first."""
    for name, text in ((f"{group}/cgroup.freeze", "0"), (f"{home}/cgroup.procs", str(child))):
        with contextlib.suppress(OSError):
            _write(name, text)
    os.rmdir(group)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _wait_frozen(events_path: str) -> bool:
    """cgroup.events polls POLLPRI when it changes."""
    end = time.monotonic() + DEADLINE_S
    fd = os.open(events_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while b"frozen 1" not in os.pread(fd, 4096, 0):
            left = end - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, 0.05) * 1000)
        return True
    finally:
        os.close(fd)
