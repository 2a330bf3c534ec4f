"""A frozen process that shares its memory with one that was borrowed before: all but that is collected of it."""

from collections.abc import Sequence
from contextlib import ExitStack

from core.collect import Subject
from core.kernel.threads import ThreadState
from core.prepare import Prepared
from core.proc.reader import ProcReader
from core.tracee.freezer import FrozenProcess
from core.tracee.lender import borrow, find_lender


def borrow_sharer(
    stack: ExitStack, prepared: Prepared, frozen: FrozenProcess, same: Sequence[FrozenProcess], parent: int,
    reader: ProcReader,
) -> Subject:  # fmt: skip
    """It lends us an area until the stack unwinds. `same`: all that have its memory, first who is asked for it; they
    stand still."""
    pid = prepared.pid
    statuses = reader.brief_statuses({pid: frozen.tids})[pid]
    lender = find_lender(
        prepared.memory, reader.maps(pid), threads_of(same), reader.status(pid),
        own_ids=statuses.own_tids, gadgets=prepared.gadgets,
    )  # fmt: skip
    borrowed = stack.enter_context(borrow(lender, frozen.leader))
    return Subject(
        frozen, borrowed, (), {}, reader, prepared.pidfd, prepared.tgid, prepared.own_pid, statuses, parent,
        memory_of=same[0].pid,
    )  # fmt: skip


def threads_of(same: Sequence[FrozenProcess]) -> Sequence[ThreadState]:
    """All threads that stand still in one memory."""
    return same[0].threads if len(same) == 1 else [thread for one in same for thread in one.threads]
