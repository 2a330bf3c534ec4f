"""Processes in vfork(2): they cannot be stopped until their child, which runs in their memory, executes or ends."""

from typing import Final

from core.errors import Blocker
from core.kernel.calls import SYSCALLS, kcmp
from core.proc.reader import ProcReader

KCMP_VM: Final = 1
VFORK_LIMIT_S: Final = 2.0  # how long to wait for such a child; what executes a program does so in milliseconds
CALLS: Final = frozenset(str(SYSCALLS[name]) for name in ("clone", "vfork", "clone3"))
HINT: Final = "try again when it has"


def is_vfork(parent: int, child: int, reader: ProcReader) -> bool:
    """True when a thread of `parent` waits for `child`, which still runs in its memory."""
    try:
        if kcmp(parent, child, KCMP_VM):
            return False
        return any(
            _waits(parent, tid, reader) and _may_be_awaited(parent, tid, child, reader) for tid in reader.tids(parent)
        )
    except OSError:  # one of them has gone
        return False


def _may_be_awaited(pid: int, tid: int, child: int, reader: ProcReader) -> bool:
    """A thread that waits makes no others: of those that have its memory (CLONE_VM) it is the youngest."""
    try:
        children = [int(word) for word in reader.text(pid, f"task/{tid}/children").split()]
    except FileNotFoundError:  # without CONFIG_PROC_CHILDREN
        return True
    if child not in children:
        return reader.stat(child).ppid != pid  # of another thread, or made by clone(CLONE_PARENT)
    return not any(_shares(pid, one) for one in children[children.index(child) + 1 :])


def _shares(pid: int, child: int) -> bool:
    try:
        return kcmp(pid, child, KCMP_VM) == 0
    except OSError:
        return False


def _waits(pid: int, tid: int, reader: ProcReader) -> bool:
    """In an uninterruptible sleep inside a call that makes processes."""
    try:
        return reader.text(pid, f"task/{tid}/syscall").split()[0] in CALLS and reader.stat(pid, tid).state == "D"
    except (OSError, IndexError):
        return False


def vfork_child(pid: int, reader: ProcReader) -> int:
    """The child that `pid` waits for; 0: none."""
    return next((child for child in reader.children(pid) if is_vfork(pid, child, reader)), 0)


def waiting_for(child: int, reader: ProcReader) -> str:
    """Why a process cannot be stopped."""
    try:
        name = reader.comm(child)
    except OSError:
        name = "ended"
    return f"is in vfork(2): it waits for its child {child} ({name}) to execute a program or to end"


def vfork_blocker(pid: int, child: int, reader: ProcReader) -> Blocker:
    """A refusal of a process in vfork(2)."""
    return Blocker("vfork", f"pid {pid}", waiting_for(child, reader), HINT)
