"""Signal actions, alternate stacks, queued signals and interval timers: collect() and plan().

What only the task can tell is asked by questions(), a program run inside it.
"""

import signal
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.errors import ImageError
from core.images.pb.signals_pb2 import SaEntry, SiginfoEntry, SignalQueueEntry, ThreadSasEntry
from core.images.pb.timers_pb2 import ItimerEntry, TaskTimersEntry
from core.plan.ops import Out, Program, Syscall
from core.tracee.borrow import Results

SIGACTION: Final = struct.Struct("<QQQQ")  # handler, flags, restorer, mask: the kernel's struct
STACK: Final = struct.Struct("<QI4xQ")
ITIMERVAL: Final = struct.Struct("<qqqq")  # interval s, µs, value s, µs
UNCHANGEABLE: Final = frozenset({signal.SIGKILL, signal.SIGSTOP})
SIGNALS: Final = tuple(number for number in range(1, 65) if number not in UNCHANGEABLE)
SA_RESTORER: Final = 0x04000000
SS_ONSTACK: Final = 1
SIGINFO_SIZE: Final = 128
SI_TIMER: Final = -2
# Standard signals first: they need no room in the queue. Never what a timer or a fault of ours may send.
REPORTING: Final = (
    signal.SIGURG, signal.SIGWINCH, signal.SIGPWR, signal.SIGSTKFLT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP,
    signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGXCPU, signal.SIGXFSZ, *range(64, 31, -1),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProcessQuestions:
    """Asked once per process."""

    actions: Program
    timers: Program

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return self.actions + self.timers


def process_questions() -> ProcessQuestions:
    """What are your signal actions and interval timers?"""
    return ProcessQuestions(
        actions=tuple(
            Syscall("rt_sigaction", (n, 0, Out(SIGACTION.size), 8), f"action of signal {n}") for n in SIGNALS
        ),
        timers=tuple(Syscall("getitimer", (n, Out(ITIMERVAL.size)), f"interval timer {n}") for n in range(3)),
    )


def collect_actions(questions: ProcessQuestions, results: Results) -> list[SaEntry]:
    """62 actions in CRIU's order: 1..64 without SIGKILL and SIGSTOP."""
    first, last = (results.template.outs[results.template.places[id(questions.actions[end])], 2][0] for end in (0, -1))
    return list(_actions(results.content[first : last + SIGACTION.size]))


@lru_cache(maxsize=64)
def _actions(content: bytes) -> tuple[SaEntry, ...]:
    return tuple(
        SaEntry(sigaction=handler, flags=flags, restorer=restorer, mask=mask)
        for handler, flags, restorer, mask in SIGACTION.iter_unpack(content)
    )


def collect_timers(questions: ProcessQuestions, results: Results) -> TaskTimersEntry:
    """The three interval timers; POSIX timers come from elsewhere."""
    entries = []
    for op in questions.timers:
        interval_s, interval_us, value_s, value_us = ITIMERVAL.unpack(results.out(op, 1))
        entries.append(ItimerEntry(isec=interval_s, iusec=interval_us, vsec=value_s, vusec=value_us))
    return TaskTimersEntry(real=entries[0], virt=entries[1], prof=entries[2])


def stack_question() -> Syscall:
    """What is your alternate signal stack?"""
    return Syscall("sigaltstack", (0, Out(STACK.size)), "alternate signal stack")


def collect_stack(question: Syscall, results: Results, entry: ThreadSasEntry) -> None:
    """Fill in the thread's alternate stack; SS_DISABLE (2) when it has none."""
    entry.ss_sp, flags, entry.ss_size = STACK.unpack(results.out(question, 1))
    entry.ss_flags = flags & ~SS_ONSTACK


def collect_queue(pending: Sequence[bytes], mask: int) -> SignalQueueEntry:
    """Queued signals, each a 128-byte siginfo, oldest first; then those of `mask` of which there is no siginfo."""
    known = {signal_number(content) for content in pending}
    bare = [number for number in range(1, 65) if mask >> (number - 1) & 1 and number not in known]
    contents = [*pending, *(number.to_bytes(4, "little").ljust(SIGINFO_SIZE, b"\0") for number in bare)]
    return SignalQueueEntry(signals=[SiginfoEntry(siginfo=content) for content in contents])


def signal_number(siginfo: bytes) -> int:
    """si_signo."""
    return int.from_bytes(siginfo[:4], "little")


def expired_timers(queue: SignalQueueEntry) -> set[int]:
    """Ids of POSIX timers that have a signal in the queue."""
    return {
        int.from_bytes(entry.siginfo[16:20], "little")
        for entry in queue.signals
        if int.from_bytes(entry.siginfo[8:12], "little", signed=True) == SI_TIMER
    }


def plan_actions(entries: Sequence[SaEntry]) -> Program:
    """Set every action that is not the default, which the task already has."""
    ops = []
    for number, entry in zip(SIGNALS, entries, strict=True):
        content = SIGACTION.pack(entry.sigaction, entry.flags, entry.restorer, entry.mask)
        if any(content):
            ops.append(Syscall("rt_sigaction", (number, content, 0, 8), f"action of {signal_name(number)}"))
    return tuple(ops)


def plan_stack(entry: ThreadSasEntry) -> Program:
    """Set the alternate stack when there is one."""
    if entry.ss_flags & 2 or not entry.ss_size:
        return ()
    content = STACK.pack(entry.ss_sp, entry.ss_flags, entry.ss_size)
    return (Syscall("sigaltstack", (content, 0), f"alternate stack {entry.ss_sp:#x}"),)


def plan_timers(entry: TaskTimersEntry) -> Program:
    """Arm the interval timers that ran, with what they had left."""
    ops = []
    for number, timer in enumerate((entry.real, entry.virt, entry.prof)):
        if timer.vsec or timer.vusec:
            content = ITIMERVAL.pack(timer.isec, timer.iusec, timer.vsec, timer.vusec)
            ops.append(Syscall("setitimer", (number, content, 0), f"interval timer {number}"))
    return tuple(ops)


def plan_queue(queue: SignalQueueEntry, pid: int, tid: int | None = None, timers: Collection[int] = ()) -> Program:
    """Queue the signals again: to thread `tid`, or to the whole process when None. Runs where they are blocked.

    Signals of the POSIX `timers` are left to these, which expire again. SIGSTOP cannot be blocked: see is_stopping.
    """
    ops = []
    for entry in queue.signals:
        number = signal_number(entry.siginfo)
        if number == signal.SIGSTOP or expired_timers(SignalQueueEntry(signals=[entry])) & {*timers}:
            continue
        why = f"queued {signal_name(number)}"
        if tid is None:
            ops.append(Syscall("rt_sigqueueinfo", (pid, number, entry.siginfo), why))
        else:
            ops.append(Syscall("rt_tgsigqueueinfo", (pid, tid, number, entry.siginfo), why))
    return tuple(ops)


def is_stopping(queues: Iterable[SignalQueueEntry]) -> bool:
    """True when a SIGSTOP is on its way."""
    return signal.SIGSTOP in numbers_of(queues)


def numbers_of(queues: Iterable[SignalQueueEntry]) -> set[int]:
    """Every signal that is queued."""
    return {signal_number(entry.siginfo) for queue in queues for entry in queue.signals}


def free_signal(used: Collection[int]) -> int:
    """A signal by which a stem can report, as none of `used` is: those stay queued; ImageError when all are."""
    for number in REPORTING:
        if number not in used:
            return int(number)
    raise ImageError("signals", "every signal is queued or a timer's: none is left to report by")


def signal_name(number: int) -> str:
    """SIGTERM for 15, SIG34 for what has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
