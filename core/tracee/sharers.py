"""Processes that share one memory without being threads of one process (CLONE_VM)."""

import errno
from collections.abc import Sequence

from core.ids.orders import TaskOrders
from core.ids.shared import KCMP_VM, SharedIds
from core.proc.reader import ProcReader
from core.tracee.family import has_gone


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
