"""PID 1 of a PID + mount namespace of our own making, and the stem that is forked from it.

The stem is its child, not ours: an orphan of ours would be reparented out of the namespace, and its init could neither
reap it nor know when the last one has gone.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import RemoteSyscallError, RestoreError
from core.kernel import ptrace
from core.kernel.threads import ThreadState
from core.plan.ops import Pointers, Program, Syscall, path_argument
from core.proc.reader import ProcReader
from core.tracee.lender import Lender, borrow, find_lender
from core.tracee.remote import open_memory
from core.tracee.spawn import attach, spawn

INIT_FILE: Final = Path(__file__).parent.parent / "native" / "init"
CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000
CLONE_PTRACE, CLONE_CLEAR_SIGHAND = 0x2000, 0x100000000
CLONE_ARGS_SIZE: Final = 88
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 2, 4, 8, 16384, 1 << 19
PR_SET_NAME: Final = 15
ENDING_POLL_S: Final = 0.0002


@dataclass(slots=True)
class NamespaceInit:
    """PID 1 of a namespace of ours and our child: `pid` is ours for it."""

    pid: int
    _ended: bool = False

    def kill(self, reader: ProcReader) -> None:
        """End it and everything in its namespace, traced by us or not. Idempotent.

        It ends only when everybody else in there has been reaped, and our tracees have to be reaped by us.
        """
        if self._ended:
            return
        self._ended = True  # the PID may be somebody else's from now on
        os.kill(self.pid, signal.SIGKILL)
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            # Again and again: who is orphaned while we look becomes a child of init, behind our back.
            for member in reversed(list(_descendants(self.pid, reader))):
                ptrace.reap_killed(member)
            time.sleep(ENDING_POLL_S)


def _descendants(pid: int, reader: ProcReader) -> Iterator[list[int]]:
    """Thread ids of every process below `pid`, leader first, parents before children."""
    for child in reader.children(pid):
        try:
            yield [child, *(tid for tid in reader.tids(child) if tid != child)]
            yield from _descendants(child, reader)
        except ProcessLookupError:
            continue


def spawn_in_namespace(
    own_pid: int, reader: ProcReader, cgroup_fd: int = -1, timens_offsets: str = ""
) -> tuple[NamespaceInit, ThreadState]:
    """A new init, and a stem that calls itself `own_pid` and stands in its first ptrace stop.

    The init runs already; should the stem die, it ends too. RestoreError when this host does not let us.
    """
    what = f"pid {own_pid}: clone3(CLONE_NEWPID|CLONE_NEWNS)"
    flags = CLONE_NEWPID | CLONE_NEWNS
    init = NamespaceInit(spawn(INIT_FILE, [], cgroup_fd, flags, what, timens_offsets=timens_offsets))
    try:
        thread = attach(init.pid)
        with open_memory(init.pid) as memory:
            status, vmas = reader.status(init.pid), reader.maps(init.pid)
            lender = find_lender(memory, vmas, [thread], status, own_ids={init.pid: 1})
            stem = _fork_stem(lender, thread, own_pid, reader)
        ptrace.detach([init.pid])
        return init, stem
    except BaseException:
        init.kill(reader)
        raise


def _fork_stem(lender: Lender, init: ThreadState, own_pid: int, reader: ProcReader) -> ThreadState:
    try:
        with borrow(lender, init) as borrowed:
            borrowed.run(init, _plan_setup() + _plan_fork(own_pid))
            [pid] = reader.children(init.tid)
            ptrace.wait_stop(pid)
            return ptrace.read_threads([pid])[0]
    except RemoteSyscallError as error:
        raise RestoreError(f"pid {own_pid}: a PID namespace of its own: {error.message}") from error


def _plan_setup() -> Program:
    """Mounts of the host still come in, none of ours goes out; /proc shows the new namespace."""
    return (
        Syscall("setsid", (), "session"),
        Syscall("chdir", (path_argument("/"),), "working directory"),
        Syscall("prctl", (PR_SET_NAME, path_argument("migrate-init"), 0, 0, 0), "name"),
        Syscall("mount", (0, path_argument("/"), 0, MS_REC | MS_SLAVE, 0), "mounts of its own"),
        Syscall(
            "mount",
            (path_argument("proc"), path_argument("/proc"), path_argument("proc"), MS_NOSUID | MS_NODEV | MS_NOEXEC, 0),
            "/proc of the new namespace",
        ),
    )


def _plan_fork(own_pid: int) -> Program:
    arguments = Pointers((
        CLONE_PTRACE | CLONE_CLEAR_SIGHAND, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, own_pid.to_bytes(4, "little"), 1, 0,
    ))  # fmt: skip
    return (Syscall("clone3", (arguments, CLONE_ARGS_SIZE), f"pid {own_pid} in a namespace of its own"),)
