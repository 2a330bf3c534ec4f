"""Processes that share one memory without being threads of one process (CLONE_VM)."""

import errno
import signal
from collections.abc import Sequence
from typing import Final

from core.errors import Blocker
from core.ids.orders import TaskOrders
from core.ids.shared import KCMP_VM, SharedIds
from core.proc.reader import ProcReader
from core.tracee.family import has_gone

EXIT_HINT: Final = "such a child (__WCLONE) cannot be made anew: wait until it has ended"


def find_sharers(pids: Sequence[int], reader: ProcReader, orders: TaskOrders | None = None) -> dict[int, int]:
    """Of `pids`: who has the memory of one before it, and the first of those. Who has ended shares with nobody."""
    orders = orders or TaskOrders()
    firsts: dict[int, int] = {}
    living = list(pids)
    while len(living) > 1:
        try:
            firsts = _find_firsts(living, orders)
            break
        except ProcessLookupError:
            left = [pid for pid in living if not has_gone(pid, reader)]
            if len(left) == len(living):
                raise
            living = left
    shared = set(firsts) | set(firsts.values())
    if not shared:
        return {}
    left = [pid for pid in living if pid in shared and not has_gone(pid, reader)]
    return firsts if len(left) == len(shared) else find_sharers(left, reader, orders)


def refuse_exit_signal(pid: int, reader: ProcReader) -> Blocker | None:
    """A refusal of a child whose parent is told of its end otherwise than of all others: clone(2) may choose."""
    number = reader.stat(pid).exit_signal
    if number == signal.SIGCHLD:
        return None
    how = f"by signal {number}" if number else "by no signal"
    return Blocker("exit-signal", f"pid {pid}", f"tells its parent of its end {how}, not by SIGCHLD", EXIT_HINT)


def _find_firsts(pids: Sequence[int], orders: TaskOrders) -> dict[int, int]:
    try:
        places = orders.find_shared(pids, KCMP_VM)
        return {pid: pids[place] for pid, place in zip(pids, places, strict=True) if pids[place] != pid}
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    ids, known, firsts = SharedIds(), dict[int, int](), dict[int, int]()
    for pid in pids:
        number, is_new = ids.vm(pid)
        if is_new:
            known[number] = pid
        else:
            firsts[pid] = known[number]
    return firsts
