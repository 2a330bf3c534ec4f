"""Runs programs inside a stopped thread: the parasite when dumping, the restorer when restoring.

Whatever is borrowed cures itself: from the moment a thread's registers are changed there is an rt_sigframe that gives
everything back, so the target lives on unharmed when we are killed at any instruction.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from core.errors import RemoteSyscallError, TraceeError
from core.kernel import ptrace
from core.kernel.ptrace import ThreadState
from core.native._kernel import ffi, lib
from core.plan.encode import NOT_RUN, Encoded, encode, op_results
from core.plan.ops import Syscall, Yield
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.tracee.remote import RemoteMemory
from core.tracee.sigframe import build_frame, frame_size

PAGE: Final = 4096
STACK_ROOM: Final = 8192  # for a signal handler, should we die before the mask is set
MINUS_ONE: Final = (1 << 64) - 1
QUIET_SIGNALS: Final = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)
JOB_CONTROL: Final = (signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)  # sending one takes others away
STRAY_STOPS: Final = 64

Steps = Sequence[Syscall | Yield]


@dataclass(frozen=True, slots=True)
class Results:
    """What a program's ops returned, and what they wrote into their Out buffers."""

    steps: Steps
    values: tuple[int, ...]
    outs: dict[tuple[int, int], bytes]
    places: dict[int, int]  # id of an op → its index; the ops live as long as `steps`

    def value(self, op: Syscall) -> int:
        """Result of `op`, negative errno when it failed and was allowed to."""
        return self.values[self._index(op)]

    def out(self, op: Syscall, argument: int) -> bytes:
        """Content of the Out buffer that was argument number `argument` of `op`."""
        return self.outs[self._index(op), argument]

    def _index(self, op: Syscall) -> int:
        return self.places[id(op)]


@dataclass(frozen=True, slots=True)
class Area:
    """Memory in a task that is ours: one executable page with the blob, then `size` bytes to write in."""

    address: int
    size: int

    @property
    def writable(self) -> int:
        """First writable byte."""
        return self.address + PAGE

    @property
    def end(self) -> int:
        """Past the last byte."""
        return self.address + PAGE + self.size


def quiet_signals(status: Status) -> tuple[int, ...]:
    """Signals that nobody would notice if we died and one were delivered: not caught, and ignored."""
    ignored = [number for number in range(1, 65) if status.ignored >> (number - 1) & 1 and number not in JOB_CONTROL]
    quiet = [int(number) for number in QUIET_SIGNALS if not status.caught >> (number - 1) & 1]
    return tuple(dict.fromkeys([*quiet, *ignored])) or tuple(map(int, QUIET_SIGNALS))


def choose_yield_signal(sigmask: int, quiet: Sequence[int], pending: Callable[[], int]) -> int:
    """One of `quiet` that takes no signal away which is queued: not blocked, or blocked but not pending."""
    for number in quiet:
        if not sigmask >> (number - 1) & 1:
            return number
    waiting = pending() if len(quiet) > 1 else 0
    return next((number for number in quiet if not waiting >> (number - 1) & 1), quiet[0])


def _pending(tid: int) -> int:
    status = ProcReader().status(tid)
    return status.sig_pending | status.shared_pending


def all_but(signal_number: int) -> int:
    """Signal mask that blocks everything else."""
    return MINUS_ONE & ~(1 << (signal_number - 1))


def blob() -> bytes:
    """The interpreter's code."""
    return bytes(ffi.buffer(lib.mg_blob(), lib.mg_blob_size()))


class Borrow:
    """An area in a stopped process, where programs run. `own_ids` maps a tid to what the task calls itself."""

    def __init__(
        self, memory: RemoteMemory, area: Area, quiet: Sequence[int], *, own_ids: dict[int, int] | None = None
    ) -> None:
        self.memory = memory
        self.area = area
        self._quiet = tuple(quiet)
        self._own_ids = dict(own_ids or {})

    def add_task(self, tid: int, own_tid: int) -> None:
        """`tid` calls itself `own_tid` (another PID namespace)."""
        self._own_ids[tid] = own_tid

    def yield_by(self, signal_number: int) -> None:
        """Programs report by this signal from now on: one that is not queued already."""
        self._quiet = (signal_number,)

    def of_child(self, memory: RemoteMemory, pid: int, own_pid: int) -> "Borrow":
        """The same area in a child that was just forked from the task."""
        return Borrow(memory, self.area, self._quiet, own_ids={pid: own_pid})

    def run(
        self, thread: ThreadState, steps: Steps, *, restorer: int = 0, at_yield: Callable[[Results], None] | None = None
    ) -> Results:
        """Run `steps` in the stopped thread, which is stopped again and as it was afterwards.

        RemoteSyscallError names the op that failed. `at_yield` is called at every Yield with the results so far.
        """
        return self.run_many([(thread, steps)], restorer=restorer, at_yield=at_yield)[0]

    def run_many(
        self,
        jobs: Sequence[tuple[ThreadState, Steps]],
        *,
        restorer: int = 0,
        at_yield: Callable[[Results], None] | None = None,
    ) -> list[Results]:
        """Like run, in several threads at a time, as many as the area holds."""
        finished: list[Results] = []
        batch: list[_Job] = []
        free = self.area.writable
        for thread, steps in jobs:
            job = self._make_job(thread, steps, free)
            if job.end > self.area.end and batch:
                finished += self._run_batch(batch, at_yield)
                batch = []
                job = self._make_job(thread, steps, self.area.writable)
            if job.end > self.area.end:
                size = len(job.encoded.content)
                raise TraceeError(thread.tid, f"a program of {size} bytes does not fit into the borrowed area")
            self._place(job, restorer)
            batch.append(job)
            free = job.end
        return finished + self._run_batch(batch, at_yield)

    def _make_job(self, thread: ThreadState, steps: Steps, address: int) -> "_Job":
        own_id = self._own_ids.get(thread.tid, thread.tid)
        yield_signal = choose_yield_signal(thread.sigmask, self._quiet, lambda: _pending(thread.tid))
        encoded = encode(steps, address, own_id, yield_signal)
        frame_address = address + -(-(len(encoded.content) + STACK_ROOM) // 64) * 64
        end = frame_address + -(-(frame_size(len(thread.xstate)) + 64) // 64) * 64
        return _Job(thread, steps, encoded, frame_address, yield_signal, end)

    def _place(self, job: "_Job", restorer: int) -> None:
        self.memory.write(job.encoded.base, job.encoded.content)
        self.memory.write(job.frame_address, build_frame(job.thread, job.frame_address, restorer))

    def start(self, thread: ThreadState, steps: Steps, mask: int) -> None:
        """Set `steps` going in the stopped thread, with the signals of `mask` blocked, and leave it to its fate."""
        job = self._make_job(thread, steps, self.area.writable)
        self._place(job, 0)
        self._start(job, mask)

    def _run_batch(self, batch: "list[_Job]", at_yield: Callable[[Results], None] | None) -> list[Results]:
        with giving_back(*(job.thread for job in batch)):
            for job in batch:
                self._start(job, all_but(job.yield_signal))
            for job in batch:
                self._wait_end(job, at_yield)
        return [self._checked(job, self._collect(job)) for job in batch]

    def _start(self, job: "_Job", mask: int) -> None:
        base = job.encoded.base
        registers = replace(
            job.thread.registers,
            ip=self.area.address,
            sp=job.frame_address + 8,
            r12=base,
            r13=base,
            r15=job.encoded.tail,
            ax=0,
            orig_ax=MINUS_ONE,
        )
        tid = job.thread.tid
        ptrace.write_registers(tid, registers)
        ptrace.write_sigmask(tid, mask)
        ptrace.resume(tid)

    def _wait_end(self, job: "_Job", at_yield: Callable[[Results], None] | None) -> None:
        while True:
            wait_yield(job.thread.tid, job.yield_signal)
            index = job.encoded.op_index(ptrace.read_registers(job.thread.tid).r12)
            if index >= job.encoded.op_count:
                return
            if at_yield is not None:
                at_yield(self._collect(job))
            ptrace.resume(job.thread.tid)

    def _collect(self, job: "_Job") -> Results:
        encoded = job.encoded
        raw = self.memory.read(encoded.base, len(encoded.content))
        values = op_results(raw, encoded.op_count)
        outs = {
            key: raw[address - encoded.base : address - encoded.base + size]
            for key, (address, size) in encoded.outs.items()
        }
        return Results(job.steps, values, outs, {id(step): index for index, step in enumerate(job.steps)})

    def _checked(self, job: "_Job", results: Results) -> Results:
        for index, (step, value) in enumerate(zip(job.steps, results.values, strict=True)):
            if isinstance(step, Yield) or step.may_fail:
                continue
            if value == NOT_RUN:
                raise TraceeError(
                    job.thread.tid, f"op {index + 1}/{len(job.steps)}: {step.name}: did not run: {step.why}"
                )
            if -4096 < value < 0:
                raise RemoteSyscallError(job.thread.tid, index, len(job.steps), step.name, -value, step.why)
        return results


@dataclass(frozen=True, slots=True)
class _Job:
    thread: ThreadState
    steps: Steps
    encoded: Encoded
    frame_address: int
    yield_signal: int
    end: int  # past the last byte of its slot


def wait_yield(tid: int, yield_signal: int) -> None:
    """Block until the thread stops for its own `yield_signal`; TraceeError when it dies or crashes instead."""
    for _ in range(STRAY_STOPS):
        try:
            stop = ptrace.wait_stop(tid)
        except ptrace.TraceeExited as error:
            raise TraceeError(tid, f"ended while borrowed (status {error.status:#x})") from error
        if not stop.is_interrupt and stop.signal == yield_signal:
            return
        if not stop.is_interrupt and stop.signal in (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGSYS):
            raise TraceeError(tid, f"{signal.Signals(stop.signal).name} while borrowed")
        ptrace.resume(tid)
    raise TraceeError(tid, "does not come back from a borrowed program")


@contextmanager
def giving_back(*threads: ThreadState) -> Iterator[None]:
    """Afterwards the threads are stopped and as they were; also after an error, wherever it found them."""
    try:
        yield
        for thread in threads:
            _give_back(thread)
    except BaseException:
        for thread in threads:
            _recover(thread)
        raise


def _give_back(thread: ThreadState) -> None:
    ptrace.write_sigmask(thread.tid, thread.sigmask)
    ptrace.write_registers(thread.tid, thread.registers)


def _recover(thread: ThreadState) -> None:
    try:
        ptrace.stop_anew(thread.tid)
        _give_back(thread)
    except (ProcessLookupError, ChildProcessError, ptrace.TraceeExited):  # it is gone: the error on its way says so
        pass
