"""Frozen processes that lend us an area of their memory, to be collected: each its own, or what another has, too."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from core.collect import Subject
from core.kernel.threads import ThreadState
from core.memory.present import read_page_sets
from core.prepare import Prepared, read_flags, read_statuses
from core.proc.reader import ProcReader
from core.tracee.family import Member
from core.tracee.freezer import FrozenProcess
from core.tracee.lender import borrow, find_lender
from core.vdso.mark import unproxied


def borrow_subject(
    stack: ExitStack, prepared: Prepared, processes: Mapping[int, FrozenProcess], member: Member, reader: ProcReader,
    sharers: Mapping[int, int],
) -> Subject:  # fmt: skip
    """A frozen process that lends us an area until the stack unwinds."""
    pid, frozen = member.pid, processes[member.pid]
    first = sharers.get(pid, pid)
    same = [processes[first], *(processes[one] for one in sharers if sharers[one] == first)]
    if pid in sharers:
        return borrow_sharer(stack, prepared, frozen, same, member.parent, reader)
    current = reader.maps(pid)
    read_flags(prepared, reader)
    statuses = read_statuses({pid: frozen}, {pid: prepared}, reader)[pid]
    own_ids = statuses.own_tids
    lender = find_lender(
        prepared.memory, current, threads_of(same), reader.status(pid), own_ids=own_ids, gadgets=prepared.gadgets
    )
    borrowed = stack.enter_context(borrow(lender, frozen.leader))
    current = unproxied(current, prepared.memory.read)
    return Subject(
        frozen, borrowed, current, prepared.vma_flags, reader, prepared.pidfd, member.tgid, member.own_pid, statuses,
        member.parent, guards=read_page_sets(pid, current).guard,
    )  # fmt: skip


def borrow_sharer(
    stack: ExitStack, prepared: Prepared, frozen: FrozenProcess, same: Sequence[FrozenProcess], parent: int,
    reader: ProcReader,
) -> Subject:  # fmt: skip
    """One that shares its memory with a subject before it: all but that is collected of it. `same`: all that have it,
    first who is asked for it; they stand still."""
    pid = prepared.pid
    statuses = read_statuses({pid: frozen}, {pid: prepared}, reader)[pid]
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
