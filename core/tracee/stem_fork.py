"""A stem's children: born with their final PID, traced from their first instruction, in their parent's image."""

from dataclasses import replace
from typing import Final

from core.errors import RestoreError
from core.kernel import ptrace
from core.plan.ops import FdAllocator, Pointers, Syscall
from core.proc.reader import ProcReader
from core.tracee.remote import RemoteMemory
from core.tracee.stem import Stem

CLONE_PTRACE: Final = 0x2000
CLONE_PARENT: Final = 0x8000
CLONE_ARGS_SIZE: Final = 88
SIGCHLD: Final = 17
SET_TID_TAKEN: Final = -17


def fork_stem(parent: Stem, own_pid: int, reader: ProcReader, flags: int = 0) -> Stem:
    """A child of `parent` that calls itself `own_pid`; it has a copy of its parent's memory and descriptors.

    An `own_pid` below zero: whatever is free. `flags` of clone3(2): what it shares; CLONE_PARENT makes it a sibling.
    """
    set_tid = (own_pid.to_bytes(4, "little"), 1) if own_pid > 0 else (0, 0)
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD  # of a sibling: as the other's
    arguments = Pointers((CLONE_PTRACE | flags, 0, 0, 0, exit_signal, 0, 0, 0, *set_tid, 0))
    born = Syscall("clone3", (arguments, CLONE_ARGS_SIZE), f"pid {own_pid}", may_fail=True)
    result = parent.run((born,)).value(born)
    if result < 0:
        hint = "that PID is taken here: use --pid namespace" if result == SET_TID_TAKEN else None
        raise RestoreError(f"pid {own_pid}: clone3(set_tid) in pid {parent.own_pid}: errno {-result}", hint=hint)
    own_pid = result
    pid = _our_pid(parent, own_pid, reader, is_sibling=bool(flags & CLONE_PARENT))
    ptrace.wait_stop(pid)
    memory = RemoteMemory(pid)
    borrow = parent.borrow.of_child(memory, pid, own_pid)
    thread = replace(parent.leader, tid=pid)
    return Stem(pid, own_pid, memory, borrow, {own_pid: thread}, FdAllocator(set(parent.fds.used)), parent.init)


def _our_pid(parent: Stem, own_pid: int, reader: ProcReader, *, is_sibling: bool) -> int:
    if parent.init is None and parent.pid == parent.own_pid:
        return own_pid
    for child in reader.children(reader.stat(parent.pid).ppid if is_sibling else parent.pid):
        if reader.status(child).ns_pid[-1] == own_pid:
            return child
    raise RestoreError(f"pid {own_pid}: was born and cannot be found")
