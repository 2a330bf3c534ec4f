"""POSIX timers (timer_create): id, clock, notification, time left, period, overrun. collect() and plan.

Every timer keeps its time left, whatever its clock: the kernel does not tell whether it was set to an absolute time.
A timer whose signal is queued still is made to expire again, so that the signal is the timer's own over there too.
"""

import errno
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import CollectError, KernelLacks
from core.images.pb.timers_pb2 import PosixTimerEntry
from core.kernel.calls import syscall
from core.plan.ops import Out, Program, Syscall
from core.proc.timers import PosixTimer
from core.tracee.borrow import Results

PR_TIMER_CREATE_RESTORE_IDS: Final = 77
IDS_OFF, IDS_ON, IDS_GET = 0, 1, 2
SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID = 0, 1, 2, 4
NOTIFY: Final = {"signal": SIGEV_SIGNAL, "none": SIGEV_NONE, "thread": SIGEV_THREAD}
SIGEVENT: Final = struct.Struct("<Qiii44x")
ITIMERSPEC: Final = struct.Struct("<qqqq")  # interval s, ns, value s, ns
TIMER_ABSTIME: Final = 1
CLOCK_THREAD_CPUTIME_ID: Final = 3
OWN_THREAD_CLOCKS: Final = (CLOCK_THREAD_CPUTIME_ID, -2)  # the kernel tells the one for the other
BILLION: Final = 1_000_000_000
HIGHEST_ID_BY_TRYING: Final = 10_000
FOREVER_NS: Final = BILLION  # for a signal that is there already


@dataclass(frozen=True, slots=True)
class TimerQuestions:
    """Asked of the process about each of its timers."""

    timers: tuple[PosixTimer, ...]
    left: Program
    overruns: Program

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return self.left + self.overruns


def timer_questions(timers: Sequence[PosixTimer]) -> TimerQuestions:
    """How much time have your timers left, and how often did each expire unnoticed?"""
    ids = [timer.timer_id for timer in timers]
    return TimerQuestions(
        tuple(timers),
        tuple(Syscall("timer_gettime", (id, Out(ITIMERSPEC.size)), f"timer {id}") for id in ids),
        tuple(Syscall("timer_getoverrun", (id,), f"timer {id}") for id in ids),
    )


def refuse(timer: PosixTimer, threads: int) -> None:
    """CollectError for a timer of a thread that the kernel does not name."""
    if timer.clock_id in OWN_THREAD_CLOCKS and threads > 1:
        raise CollectError(
            f"timer {timer.timer_id}", "runs on CLOCK_THREAD_CPUTIME_ID of a thread that the kernel does not tell"
        )


def collect(questions: TimerQuestions, results: Results, own_tids: Mapping[int, int]) -> list[PosixTimerEntry]:
    """Entries by id. `own_tids`: tid as we see it → as the process does."""
    entries = []
    for timer, left, overrun in zip(questions.timers, questions.left, questions.overruns, strict=True):
        refuse(timer, len(own_tids))
        period_s, period_ns, left_s, left_ns = ITIMERSPEC.unpack(results.out(left, 1))
        entry = PosixTimerEntry(
            it_id=timer.timer_id, clock_id=timer.clock_id & 0xFFFFFFFF, si_signo=timer.signal,
            it_sigev_notify=NOTIFY[timer.notify], sival_ptr=timer.value_pointer, overrun=results.value(overrun),
            isec=period_s, insec=period_ns, vsec=left_s, vnsec=left_ns,
        )  # fmt: skip
        if timer.to_thread:
            _set_thread(entry, own_tids.get(timer.target))
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry.it_id)


def _set_thread(entry: PosixTimerEntry, own_tid: int | None) -> None:
    """A timer whose thread has ended notifies nobody any more."""
    if own_tid is None:
        entry.it_sigev_notify = SIGEV_NONE
        return
    entry.it_sigev_notify |= SIGEV_THREAD_ID
    entry.notify_thread_id = own_tid


def probe_chosen_ids() -> bool:
    """True when timer_create(2) can be told the id (Linux 6.15)."""
    try:
        syscall("prctl", PR_TIMER_CREATE_RESTORE_IDS, IDS_GET, 0, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def plan_create(entries: Sequence[PosixTimerEntry], *, chosen_ids: bool) -> Program:
    """Make every timer, unarmed. Threads that are notified exist already."""
    if not entries:
        return ()
    if not chosen_ids:
        return _plan_create_by_trying(entries)
    return (
        Syscall("prctl", (PR_TIMER_CREATE_RESTORE_IDS, IDS_ON, 0, 0, 0), "choose timer ids"),
        *(_create(entry) for entry in entries),
        Syscall("prctl", (PR_TIMER_CREATE_RESTORE_IDS, IDS_OFF, 0, 0, 0), "timer ids as usual"),
    )


def _plan_create_by_trying(entries: Sequence[PosixTimerEntry]) -> Program:
    """A process numbers its timers from 0 on; a timer whose number has nowhere to go is gone again, its number used."""
    if entries[-1].it_id > HIGHEST_ID_BY_TRYING:
        raise KernelLacks(
            f"timer {entries[-1].it_id}",
            f"ids above {HIGHEST_ID_BY_TRYING} cannot be given (no PR_TIMER_CREATE_RESTORE_IDS)",
            hint="Linux 6.15 or newer on the destination",
        )
    ops: list[Syscall] = []
    following = 0
    for entry in entries:
        skipped = range(following, entry.it_id)
        ops += [Syscall("timer_create", (time.CLOCK_MONOTONIC, 0, 0), f"skip id {id}", may_fail=True) for id in skipped]
        ops.append(_create(entry))
        following = entry.it_id + 1
    return tuple(ops)


def _create(entry: PosixTimerEntry) -> Syscall:
    event = SIGEVENT.pack(entry.sival_ptr, entry.si_signo, entry.it_sigev_notify, entry.notify_thread_id)
    return Syscall("timer_create", (entry.clock_id, event, entry.it_id.to_bytes(4, "little")), f"timer {entry.it_id}")


def is_cpu_clock(clock_id: int) -> bool:
    """True for the clocks of processes and threads, which begin anew over there."""
    return clock_id in (time.CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID) or bool(clock_id >> 31)


def plan_arm(entry: PosixTimerEntry, now_ns: int, *, expired: bool, keep_overrun: bool) -> Program:
    """Arm it with what it had left at `now_ns` of its clock. `expired`: its signal is queued and is to be so again.

    `keep_overrun`: no other signal like its own is queued, so the overrun of its last signal can be brought about: by
    letting it expire as often in the past, and taking that signal. Runs in the thread that is notified.
    """
    left = entry.vsec * BILLION + entry.vnsec
    period = entry.isec * BILLION + entry.insec
    cpu = is_cpu_clock(entry.clock_id)
    overdue = now_ns + left - (entry.overrun + 1) * period
    if expired:
        first = now_ns + left - period
        return (_settime(entry, period, first, TIMER_ABSTIME) if period and not cpu else _settime(entry, period, 1),)
    if not left:
        return ()
    if entry.overrun and period and keep_overrun and not cpu and overdue > 0:
        return (_settime(entry, period, overdue, TIMER_ABSTIME), _take_signal(entry))
    return (_settime(entry, period, left),)


def _settime(entry: PosixTimerEntry, period_ns: int, value_ns: int, flags: int = 0) -> Syscall:
    spec = ITIMERSPEC.pack(*divmod(period_ns, BILLION), *divmod(value_ns, BILLION))
    return Syscall("timer_settime", (entry.it_id, flags, spec, 0), f"timer {entry.it_id}: arm")


def _take_signal(entry: PosixTimerEntry) -> Syscall:
    signals = (1 << (entry.si_signo - 1)).to_bytes(8, "little")
    patience = struct.pack("<qq", *divmod(FOREVER_NS, BILLION))
    return Syscall("rt_sigtimedwait", (signals, 0, patience, 8), f"timer {entry.it_id}: overrun {entry.overrun}")


def plan_all(
    entries: Sequence[PosixTimerEntry],
    expired: Collection[int],
    queued: Collection[int],
    leader: int,
    clock_offsets: Mapping[int, int],
) -> dict[int, Program]:
    """Arm all of them: thread → program. `expired`: ids of timers whose signal is queued; `queued`: signals that are.

    `clock_offsets`: how far its clocks are ahead of ours.
    """
    programs: dict[int, Program] = {}
    for entry in entries:
        tid = entry.notify_thread_id if entry.it_sigev_notify & SIGEV_THREAD_ID else leader
        now_ns = 0 if is_cpu_clock(entry.clock_id) else time.clock_gettime_ns(entry.clock_id)
        now_ns += clock_offsets.get(entry.clock_id, 0)
        arm = plan_arm(entry, now_ns, expired=entry.it_id in expired, keep_overrun=entry.si_signo not in queued)
        programs[tid] = programs.get(tid, ()) + arm
    return programs
