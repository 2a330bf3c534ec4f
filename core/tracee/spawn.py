"""Starts the tiny native programs that restored tasks begin as, and takes hold of them before they do anything.

Until they are let go they die with us (PTRACE_O_EXITKILL), so nothing of a failed restore stays behind.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from core.errors import RestoreError
from core.kernel import ptrace
from core.kernel.threads import ThreadState
from core.native._kernel import ffi, lib

SPAWN_TRIES: Final = 4
STOP_TIMEOUT_S: Final = 30.0  # nobody waits for it yet, and the host may be busy
OPTIONS: Final = ptrace.O_TRACESYSGOOD | ptrace.O_EXITKILL


def spawn(
    program: Path, set_tid: Sequence[int], cgroup_fd: int, clone_flags: int, what: str, *, timens_offsets: str = ""
) -> int:
    """Start `program` with a PID of our choice (none: any) in a cgroup (-1: ours); RestoreError names `what`.

    `timens_offsets`: in a new time namespace with these, as for /proc/PID/timens_offsets; empty: in ours.
    """
    executable = os.memfd_create("migrate-stem", os.MFD_CLOEXEC)
    try:
        os.write(executable, program.read_bytes())
        tids = ffi.new("int[]", list(set_tid) or 1)
        result = _spawn(executable, tids, len(set_tid), cgroup_fd, clone_flags, timens_offsets.encode())
    finally:
        os.close(executable)
    if result < 0:
        taken = "that PID is taken here: use --pid namespace, or end its owner" if result == -errno.EEXIST else None
        raise RestoreError(f"{what}: {os.strerror(-result)}", hint=taken)
    return result


def _spawn(
    executable: int, tids: "ffi.CData", count: int, cgroup_fd: int, clone_flags: int, timens_offsets: bytes
) -> int:
    if not timens_offsets:
        return int(lib.mg_spawn(executable, tids, count, cgroup_fd, -1, clone_flags))
    for _ in range(SPAWN_TRIES):
        result = int(lib.mg_spawn_in_time(executable, tids, count, cgroup_fd, -1, clone_flags, timens_offsets))
        if result != -errno.EAGAIN:
            break
    return result


def attach(pid: int) -> ThreadState:
    """Seize and stop a program that was just spawned."""
    errors = ptrace.stop_threads([pid], OPTIONS, STOP_TIMEOUT_S)
    if errors[pid]:
        raise RestoreError(f"pid {pid}: cannot attach to the stem: {os.strerror(errors[pid])}")
    return ptrace.read_threads([pid])[0]
