"""Stops a process with all its threads by ptrace (no SIGSTOP, its parent sees nothing) and lets it go again.

All or nothing: when a thread cannot be stopped, those that were are let go.
"""

import errno
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from core.errors import CollectError, TraceeError
from core.kernel import ptrace
from core.kernel.threads import ThreadBlock, ThreadState
from core.proc.main_thread import is_dead
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.tracee.cut_short import forget_error, is_cut_short
from core.tracee.remote import open_memory
from core.tracee.restarted import RESTART_SYSCALL, under_its_own_name
from core.tracee.sigframe import EINTR, ERESTARTNOHAND, ended_by_a_stop, signed
from core.tracee.vdso_exit import read_outside
from core.tracee.vfork import HINT, vfork_child, waiting_for
from core.vdso.mark import NO_CODE, VdsoCode

OPTIONS = ptrace.O_TRACESYSGOOD | ptrace.O_SUSPEND_SECCOMP
RSEQ_CS = struct.Struct("<IIQQQ")  # struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip
Failures = dict[int, TraceeError | OSError]  # by pid
MANY = 64  # threads of which a list takes longer than their number
RSEQ_CS_OFFSET = 8  # of the pointer to it in struct rseq


@dataclass(slots=True)
class FrozenProcess:
    """A process whose every thread is in a ptrace stop. `threads` is in the order of /proc/PID/task, `pid` first: the
    leader or, when that has ended, the thread through which the process is looked at.

    `stop_signal`: what job control had stopped it by already, 0 when it ran; let go, it stands still as before.
    """

    pid: int
    tids: list[int]  # as we see them
    threads: ThreadBlock
    stop_signal: int = 0

    @property
    def leader(self) -> ThreadState:
        """State of thread `pid`."""
        return self.threads[self.tids.index(self.pid)]


def attach_options() -> int:
    """Ptrace options for a target: with its seccomp filters suspended where we are allowed to."""
    return OPTIONS if os.geteuid() == 0 else ptrace.O_TRACESYSGOOD


def stop_process(pid: int, reader: ProcReader, *, deadline_s: float = 5.0, code: VdsoCode = NO_CODE) -> FrozenProcess:
    """Stop every thread of `pid`, also those born meanwhile; TraceeError names the one that does not stop.

    `code`: where its vDSO is, in which no thread is to stand.
    """
    frozen, failed = stop_processes([pid], reader, deadline_s=deadline_s, code={pid: code})
    if failed:
        raise failed[pid]
    return frozen[pid]


def stop_processes(
    pids: Sequence[int], reader: ProcReader, *, deadline_s: float = 5.0, code: Mapping[int, VdsoCode],
    on_stop: Callable[[float], object] = lambda began_s: None,
) -> tuple[dict[int, FrozenProcess], Failures]:  # fmt: skip
    """Stop every thread of each process; with those that cannot be stopped, which run on, and why. `on_stop` is told
    since when not all of them run, by time.monotonic(); at later calls, since when not all of those born meanwhile."""
    frozen: dict[int, FrozenProcess] = {}
    stopped: dict[int, list[int]] = {pid: [] for pid in pids}
    try:
        failed = _stop_all(stopped, reader, time.monotonic() + deadline_s, on_stop)
        for pid in pids:
            if pid not in stopped[pid]:
                failed.setdefault(pid, TraceeError(pid, "has ended as it was stopped"))
            try:
                if pid not in failed:
                    stop_new = partial(_stop_new, pid, stopped[pid], reader, deadline_s)
                    frozen[pid] = _read_frozen(pid, read_outside(pid, stopped[pid], code[pid], stop_new), reader)
            except (OSError, TraceeError) as error:
                failed[pid] = error
        ptrace.detach([tid for pid in failed for tid in stopped[pid]])
        return frozen, failed
    except BaseException:
        ptrace.detach([tid for tids in stopped.values() for tid in tids])
        raise


def _stop_new(pid: int, stopped: list[int], reader: ProcReader, deadline_s: float) -> None:
    """Stop, and add to `stopped`, the threads of `pid` that run."""
    if failed := _stop_all({pid: stopped}, reader, time.monotonic() + deadline_s):
        raise failed[pid]


def _read_frozen(pid: int, threads: ThreadBlock, reader: ProcReader) -> FrozenProcess:
    stop_signal = ptrace.read_siginfo(pid)[0]
    for index in threads.disturbed():
        state = threads[index]
        if (undone := settled(pid, state, reader)) is not state:
            threads.put(index, undone)
    return FrozenProcess(pid, threads.tids, threads, 0 if stop_signal == signal.SIGTRAP else stop_signal)


def _stop_all(
    stopped: dict[int, list[int]], reader: ProcReader, deadline: float,
    on_stop: Callable[[float], object] = lambda began_s: None,
) -> Failures:  # fmt: skip
    """Fill `stopped`, round by round until no process has a new thread; why some could not be stopped."""
    failed: Failures = {}
    dead: list[int] = []  # first threads that have ended before the others
    todo = list(stopped)
    while todo:
        new = _new_tids({pid: stopped[pid] for pid in todo}, dead, failed, reader)
        if new and time.monotonic() > deadline:
            failed.update(
                (pid, TraceeError(pid, "makes threads faster than they can be stopped")) for pid in new.values()
            )
            return failed
        for tid, error in ptrace.stop_threads(list(new), attach_options(), on_stop=on_stop).items():
            pid = new[tid]
            if error == 0:
                stopped[pid].append(tid)
            elif error == errno.ETIMEDOUT and (child := vfork_child(pid, reader)):
                failed.setdefault(pid, TraceeError(pid, waiting_for(child, reader), hint=HINT))
            elif error == errno.EPERM and is_dead(tid, reader):
                dead.append(tid)
            elif error != errno.ESRCH:
                reason = f"thread {tid}: cannot be stopped: {os.strerror(error)}"
                failed.setdefault(pid, TraceeError(pid, reason, hint=_hint(error)))
        todo = [pid for pid in dict.fromkeys(new.values()) if pid not in failed]
    return failed


def _new_tids(
    stopped: Mapping[int, list[int]], dead: list[int], failed: Failures, reader: ProcReader
) -> dict[int, int]:
    """Threads that are not stopped yet, and whose."""
    new: dict[int, int] = {}
    unsure = [pid for pid in stopped if not _are_all(pid, stopped[pid], reader)]
    for pid, tids in zip(unsure, reader.numbers([(pid, "task") for pid in unsure]), strict=True):
        if isinstance(tids, OSError):
            failed[pid] = tids
        else:
            new.update((tid, pid) for tid in set(tids).difference(stopped[pid], dead))
    return new


def _are_all(pid: int, stopped: Sequence[int], reader: ProcReader) -> bool:
    """True when no other thread is in the process; False without a look where a list of them is as cheap as one."""
    try:
        return len(stopped) >= MANY and reader.stat(pid, stopped[0]).num_threads == len(stopped)
    except (OSError, CollectError):
        return False


def settled(pid: int, state: ThreadState, reader: ProcReader) -> ThreadState:
    """The stopped thread with the trace of our stop taken out of its registers (and out of a socket)."""
    undone = state
    if state.rseq.critical_section:
        undone = out_of_critical_section(pid, state)
    elif signed(state.registers.ax) == EINTR:
        undone = undisturbed(state, reader.status(pid, state.tid))
    elif RESTART_SYSCALL in (state.registers.orig_ax, state.registers.ax):
        with open_memory(pid) as memory:
            undone = replace(state, registers=under_its_own_name(state.registers, memory.read))
    elif is_cut_short(state.registers):
        forget_error(pid, state.registers)
    if undone is not state:
        ptrace.write_registers(state.tid, undone.registers)
    return undone


def out_of_critical_section(pid: int, state: ThreadState) -> ThreadState:
    """A thread stopped inside an rseq critical section begins it anew, as after any preemption.

    We do it before the kernel would: it no longer could once other code has run in the thread, nor can another host's.
    """
    with open_memory(pid) as memory:
        section = memory.read(state.rseq.critical_section, RSEQ_CS.size)
        _version, _flags, start, length, abort = RSEQ_CS.unpack(section)
        if not start <= state.registers.ip < start + length:
            return state
        aborted = replace(state, registers=state.registers._replace(ip=abort))
        # In this order: were we killed between, a thread still inside would store what it loaded before the stop.
        ptrace.write_registers(state.tid, aborted.registers)
        memory.write(state.rseq.address + RSEQ_CS_OFFSET, bytes(8))
    return aborted


def _hint(error: int) -> str | None:
    if error == errno.ETIMEDOUT:
        return "it is in uninterruptible sleep: a hung disk or network file system"
    if error == errno.EPERM:
        return "it is traced by another program, or this user may not trace it (run as root)"
    return None


def stop_thread(pid: int, tid: int, reader: ProcReader) -> ThreadState:
    """Stop one thread of `pid` while its siblings run on."""
    error = ptrace.stop_threads([tid], attach_options())[tid]
    if error:
        raise TraceeError(tid, f"cannot be stopped: {os.strerror(error)}", hint=_hint(error))
    try:
        return settled(pid, ptrace.read_threads([tid])[0], reader)
    except BaseException:
        ptrace.detach([tid])
        raise


def has_deliverable_signal(status: Status) -> bool:
    """True when a signal is pending that the thread does not block: its syscall may rightly end with EINTR."""
    return bool((status.sig_pending | status.shared_pending) & ~status.blocked)


def undisturbed(state: ThreadState, status: Status) -> ThreadState:
    """The thread as it would be without our stop: syscalls that a stop ends with EINTR are made again.

    By the kernel, when the thread is let go, as those that end with -ERESTART* are: should a handler run first, for a
    signal that comes while it stands still, the call ends with EINTR after all.
    """
    registers = state.registers
    if not ended_by_a_stop(registers) or has_deliverable_signal(status):
        return state
    return replace(state, registers=registers._replace(ax=ERESTARTNOHAND + (1 << 64)))


@contextmanager
def freeze(
    pid: int, reader: ProcReader, *, deadline_s: float = 5.0, code: VdsoCode = NO_CODE
) -> Iterator[FrozenProcess]:
    """The process stopped for the time of a with block; afterwards it runs on as if nothing had been."""
    frozen = stop_process(pid, reader, deadline_s=deadline_s, code=code)
    try:
        yield frozen
    finally:
        ptrace.detach(frozen.tids)
