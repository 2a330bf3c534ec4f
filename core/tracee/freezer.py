"""Stops a process with all its threads by ptrace (no SIGSTOP, its parent sees nothing) and lets it go again.

All or nothing: when a thread cannot be stopped, those that were are let go.
"""

import errno
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from core.errors import TraceeError
from core.kernel import ptrace
from core.kernel.ptrace import ThreadState
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.tracee.remote import open_memory
from core.tracee.restarted import RESTART_SYSCALL, under_its_own_name
from core.tracee.sigframe import EINTR, made_again, signed
from core.tracee.vfork import HINT, vfork_child, waiting_for

OPTIONS = ptrace.O_TRACESYSGOOD | ptrace.O_SUSPEND_SECCOMP
RSEQ_CS = struct.Struct("<IIQQQ")  # struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip
RSEQ_CS_OFFSET = 8  # of the pointer to it in struct rseq


@dataclass(slots=True)
class FrozenProcess:
    """A process whose every thread is in a ptrace stop. `threads` is in the order of /proc/PID/task, leader first.

    `stop_signal`: what job control had stopped it by already, 0 when it ran; let go, it stands still as before.
    """

    pid: int
    threads: list[ThreadState] = field(default_factory=list)
    stop_signal: int = 0

    @property
    def tids(self) -> list[int]:
        """Thread ids as we see them."""
        return [thread.tid for thread in self.threads]

    @property
    def leader(self) -> ThreadState:
        """State of the thread group leader."""
        return next(thread for thread in self.threads if thread.tid == self.pid)


def attach_options() -> int:
    """Ptrace options for a target: with its seccomp filters suspended where we are allowed to."""
    return OPTIONS if os.geteuid() == 0 else ptrace.O_TRACESYSGOOD


def stop_process(pid: int, reader: ProcReader, *, deadline_s: float = 5.0) -> FrozenProcess:
    """Stop every thread of `pid`, also those born meanwhile; TraceeError names the one that does not stop."""
    stopped: list[int] = []
    try:
        _stop_all(pid, reader, stopped, time.monotonic() + deadline_s)
        threads = ptrace.read_threads(sorted(stopped, key=lambda tid: (tid != pid, tid)))
        stop_signal = ptrace.read_siginfo(pid)[0]
        states = [settled(pid, thread, reader) for thread in threads]
        return FrozenProcess(pid, states, 0 if stop_signal == signal.SIGTRAP else stop_signal)
    except BaseException:
        ptrace.detach(stopped)
        raise


def _stop_all(pid: int, reader: ProcReader, stopped: list[int], deadline: float) -> None:
    while True:
        known = set(stopped)
        new = [tid for tid in reader.tids(pid) if tid not in known]
        if not new:
            return
        if time.monotonic() > deadline:
            raise TraceeError(pid, "makes threads faster than they can be stopped")
        for tid, error in ptrace.stop_threads(new, attach_options()).items():
            if error == 0:
                stopped.append(tid)
            elif error == errno.ETIMEDOUT and (child := vfork_child(pid, reader)):
                raise TraceeError(pid, waiting_for(child, reader), hint=HINT)
            elif error != errno.ESRCH:
                raise TraceeError(pid, f"thread {tid}: cannot be stopped: {os.strerror(error)}", hint=_hint(error))


def settled(pid: int, state: ThreadState, reader: ProcReader) -> ThreadState:
    """The stopped thread with the trace of our stop taken out of its registers."""
    undone = state
    if state.rseq.critical_section:
        undone = out_of_critical_section(pid, state)
    elif signed(state.registers.ax) == EINTR:
        undone = undisturbed(state, reader.status(pid, state.tid))
    elif RESTART_SYSCALL in (state.registers.orig_ax, state.registers.ax):
        with open_memory(pid) as memory:
            undone = replace(state, registers=under_its_own_name(state.registers, memory.read))
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
        aborted = replace(state, registers=replace(state.registers, ip=abort))
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

    Only those; for the -ERESTART* ones the kernel itself does it when the thread is let go.
    """
    registers = state.registers
    if signed(registers.ax) != EINTR or signed(registers.orig_ax) < 0 or has_deliverable_signal(status):
        return state
    return replace(state, registers=made_again(registers))


@contextmanager
def freeze(pid: int, reader: ProcReader, *, deadline_s: float = 5.0) -> Iterator[FrozenProcess]:
    """The process stopped for the time of a with block; afterwards it runs on as if nothing had been."""
    frozen = stop_process(pid, reader, deadline_s=deadline_s)
    try:
        yield frozen
    finally:
        ptrace.detach(frozen.tids)
