"""Runs programs inside a stopped thread: the parasite when dumping, the restorer when restoring.

Whatever is borrowed cures itself: from the moment a thread's registers are changed there is an rt_sigframe that gives
everything back, so the target lives on unharmed when we are killed at any instruction.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from core.errors import MigrateError, RemoteSyscallError, TraceeError
from core.kernel import ptrace
from core.kernel.threads import ThreadState
from core.kernel.xsave import usable_size
from core.memory.ranges import Ranges
from core.native._kernel import ffi, lib
from core.plan.encode import NOT_RUN, OP, RESULT, RESULT_WORD, Encoded, Steps, Template, assemble
from core.plan.ops import Syscall, Yield
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.tracee.remote import RemoteMemory
from core.tracee.sigframe import STACK_ROOM, build_frame, frame_size

PAGE: Final = 4096
MINUS_ONE: Final = (1 << 64) - 1
QUIET_SIGNALS: Final = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)
JOB_CONTROL: Final = (signal.SIGCONT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)  # sending one takes others away
STRAY_STOPS: Final = 64


@dataclass(frozen=True, slots=True)
class Results:
    """What a program's ops returned, and what they wrote into their Out buffers; `content`: as it came back."""

    template: Template
    content: bytes

    def value(self, op: Syscall) -> int:
        """Result of `op`, negative errno when it failed and was allowed to."""
        return int(RESULT_WORD.unpack_from(self.content, self._index(op) * OP.size + RESULT)[0])

    def out(self, op: Syscall, argument: int) -> bytes:
        """Content of the Out buffer that was argument number `argument` of `op`."""
        place, size = self.template.outs[self._index(op), argument]
        return self.content[place : place + size]

    def _index(self, op: Syscall) -> int:
        return self.template.places[id(op)]


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

    def is_in(self, pid: int, reader: ProcReader) -> bool:
        """Whether `pid` has all of it."""
        return self.is_mapped(reader.maps_between(pid, self.address, self.end))

    def is_mapped(self, vmas: Sequence[Vma]) -> bool:
        """Whether all of it is there; its two VMAs may be one with others by now."""
        near = ((vma.start, vma.end) for vma in vmas if vma.start < self.end and vma.end > self.address)
        return not Ranges.of([(self.address, self.end)]).subtract(Ranges.of(near))


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

    def of_child(self, memory: RemoteMemory, pid: int, own_pid: int, area: Area) -> "Borrow":
        """`area` in a child that was just forked from the task: the same one, unless it shares the memory."""
        return Borrow(memory, area, self._quiet, own_ids={pid: own_pid})

    def run(
        self, thread: ThreadState, steps: Steps, *, at_yield: Callable[[Results], None] | None = None,
        whole: bool = False,
    ) -> Results:  # fmt: skip
        """Run `steps` in the stopped thread, which is stopped again and as it was afterwards.

        RemoteSyscallError names the op that failed. `at_yield` is called at every Yield with the results so far.
        `whole`: once begun all of it runs, also when we are interrupted, so that what it opens is closed.
        """
        job = self._make_job(thread, steps)
        self._place(job)
        with giving_back(thread):
            try:
                self._start(job, all_but(job.yield_signal))
                self._wait_end(job, at_yield)
            except BaseException:
                if whole:
                    self._finish(job)
                raise
        return self._checked(job, self._collect(job))

    def _make_job(self, thread: ThreadState, steps: Steps) -> "_Job":
        template = assemble(steps)
        if template_slot(template) > self.area.size:
            raise too_large(thread.tid, template)
        yield_signal = self.yield_signal(thread.tid, thread.sigmask)
        encoded = template.at(self.area.writable, self.own_id(thread.tid), yield_signal)
        frame_address = encoded.base + -(-(len(encoded.content) + STACK_ROOM) // 64) * 64
        return _Job(thread, template, encoded, frame_address, yield_signal)

    def own_id(self, tid: int) -> int:
        """What the thread calls itself."""
        return self._own_ids.get(tid, tid)

    @property
    def quiet(self) -> tuple[int, ...]:
        """Signals by which programs may report, the best first."""
        return self._quiet

    def yield_signal(self, tid: int, sigmask: int) -> int:
        """The signal by which a program in this thread reports."""
        return choose_yield_signal(sigmask, self._quiet, lambda: _pending(tid))

    def _place(self, job: "_Job") -> None:
        self.memory.write(job.encoded.base, job.encoded.content)
        self.memory.write(job.frame_address, build_frame(job.thread, job.frame_address, 0))

    def start(self, thread: ThreadState, steps: Steps, mask: int) -> None:
        """Set `steps` going in the stopped thread, with the signals of `mask` blocked, and leave it to its fate."""
        job = self._make_job(thread, steps)
        self._place(job)
        self._start(job, mask)

    def _start(self, job: "_Job", mask: int) -> None:
        base = job.encoded.base
        registers = job.thread.registers._replace(
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

    def _finish(self, job: "_Job") -> None:
        """Let a program that was begun run to its end, whatever there was to do at its yields."""
        with suppress(MigrateError, OSError):  # the error on its way tells more
            if ptrace.is_stopped(job.thread.tid):
                now = ptrace.read_registers(job.thread.tid)
                begun = self.area.address < now.ip < self.area.writable
                if not begun or job.encoded.op_index(now.r12) >= job.encoded.op_count:
                    return
                ptrace.resume(job.thread.tid)
            self._wait_end(job, None)

    def _collect(self, job: "_Job") -> Results:
        return Results(job.template, self.memory.read(job.encoded.base, len(job.encoded.content)))

    def _checked(self, job: "_Job", results: Results) -> Results:
        for index in job.template.must_succeed:
            value = RESULT_WORD.unpack_from(results.content, index * OP.size + RESULT)[0]
            if value == NOT_RUN or -4096 < value < 0:
                raise failure_of(job.thread.tid, job.template, index, value)
        return results


def failure_of(tid: int, template: Template, index: int, value: int) -> MigrateError:
    """The error of an op that returned `value`, or did not run."""
    step = template.steps[index]
    if isinstance(step, Yield) or value == NOT_RUN:
        name = "yield" if isinstance(step, Yield) else step.name
        return TraceeError(tid, f"op {index + 1}/{template.op_count}: {name}: did not run: {step.why}")
    return RemoteSyscallError(tid, index, template.op_count, step.name, -value, step.why)


def too_large(tid: int, template: Template) -> TraceeError:
    """For a program that no area of this size holds."""
    return TraceeError(tid, f"a program of {len(template.content)} bytes does not fit into the borrowed area")


def template_slot(template: Template) -> int:
    """Bytes of an area that a program takes, with the frame behind it."""
    frame = -(-(len(template.content) + STACK_ROOM) // 64) * 64
    return frame + -(-(frame_size(usable_size()) + 64) // 64) * 64


@dataclass(frozen=True, slots=True)
class _Job:
    thread: ThreadState
    template: Template
    encoded: Encoded
    frame_address: int
    yield_signal: int


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
    except (ProcessLookupError, ChildProcessError):  # it is gone: the error on its way says so
        pass
