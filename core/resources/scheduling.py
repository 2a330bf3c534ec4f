"""How a thread is scheduled, on CPUs and for I/O; and process limits. Read and set from outside, by tid."""

import errno
import os
import resource
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from core.images.pb.core_pb2 import RlimitEntry, TaskRlimitsEntry, ThreadCoreEntry
from core.kernel.calls import address_of, all_limits, prlimit, syscall
from core.kernel.thread_facts import Scheduling, parse_scheduling
from core.proc.limits import Limit

INFINITY: Final = (1 << 64) - 1
RLIMIT_NAMES: Final = {
    getattr(resource, name): name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
SCHED_DEADLINE: Final = 6
RESET_ON_FORK: Final = 1  # a flag of struct sched_attr
SCHED_ATTR: Final = struct.Struct("<IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
IOPRIO_WHO_PROCESS: Final = 1
FIELDS: Final = ("sched_policy", "sched_nice", "io_priority", "cpu_affinity")
FAIR: Final = frozenset({os.SCHED_OTHER, os.SCHED_BATCH})
REALTIME: Final = frozenset({os.SCHED_FIFO, os.SCHED_RR})


def collect(found: Scheduling, entry: ThreadCoreEntry) -> None:
    """Fill the scheduling fields of a thread's image."""
    entry.sched_policy = found.policy
    entry.sched_nice = found.nice
    entry.io_priority = found.io_priority
    entry.cpu_affinity = found.affinity
    if _bare(found.policy) in REALTIME:
        entry.sched_prio = found.priority
    elif _bare(found.policy) == SCHED_DEADLINE:
        entry.sched_flags, entry.sched_period_ns = found.flags, found.period_ns
        entry.sched_runtime_ns, entry.sched_deadline_ns = found.runtime_ns, found.deadline_ns
    elif _bare(found.policy) in FAIR and found.runtime_ns not in (0, _slice_ns(0)):
        entry.sched_runtime_ns = found.runtime_ns


def _bare(policy: int) -> int:
    """Without SCHED_RESET_ON_FORK."""
    return policy & ~os.SCHED_RESET_ON_FORK


def _slice_ns(tid: int) -> int:
    """How long a thread may run at a time. Of ours that is what nobody has chosen. 0: this kernel does not tell."""
    attributes = bytearray(SCHED_ATTR.size)
    syscall("sched_getattr", tid, address_of(attributes), len(attributes), 0)
    return int(SCHED_ATTR.unpack(attributes)[5])


@lru_cache(maxsize=64)
def _fields(scheduling: bytes) -> ThreadCoreEntry:
    entry = ThreadCoreEntry()
    collect(parse_scheduling(scheduling), entry)
    return entry


def _is_so_already(entry: ThreadCoreEntry, scheduling: bytes) -> bool:
    now = _fields(scheduling)
    special = entry.sched_runtime_ns or entry.sched_prio or now.sched_runtime_ns or now.sched_prio
    return not special and all(entry.HasField(name) and getattr(entry, name) == getattr(now, name) for name in FIELDS)


def apply(tid: int, entry: ThreadCoreEntry, now: bytes) -> list[str]:
    """Set them on a thread of ours, which is scheduled as `now` says (ThreadFacts.scheduling).

    What this host does not allow is told, not fatal.
    """
    if _is_so_already(entry, now):
        return []
    notices = []
    actions: tuple[tuple[str, Callable[[], None]], ...] = (
        ("nice", lambda: os.setpriority(os.PRIO_PROCESS, tid, entry.sched_nice)),
        ("scheduling policy", lambda: _apply_policy(tid, entry)),
        ("time slice", lambda: _apply_slice(tid, entry)),
        ("CPU affinity", lambda: _apply_affinity(tid, entry)),
        ("I/O priority", lambda: _apply_io_priority(tid, entry)),
    )
    for what, action in actions:
        try:
            action()
        except OSError as error:
            notices.append(f"thread {tid}: {what} not carried: {errno.errorcode.get(error.errno or 0, error)}")
    return notices


def _apply_policy(tid: int, entry: ThreadCoreEntry) -> None:
    if _bare(entry.sched_policy) == SCHED_DEADLINE:
        _apply_deadline(tid, entry)
    elif os.sched_getscheduler(tid) != entry.sched_policy or entry.sched_prio:
        os.sched_setscheduler(tid, entry.sched_policy, os.sched_param(entry.sched_prio))


def _apply_deadline(tid: int, entry: ThreadCoreEntry) -> None:
    policy = _bare(entry.sched_policy)
    times = entry.sched_runtime_ns, entry.sched_deadline_ns, entry.sched_period_ns
    attributes = SCHED_ATTR.pack(SCHED_ATTR.size, policy, entry.sched_flags, 0, 0, *times)
    syscall("sched_setattr", tid, address_of(attributes), 0)


def _apply_slice(tid: int, entry: ThreadCoreEntry) -> None:
    """As was chosen by sched_setattr(2), which Linux before 6.12 takes and ignores."""
    policy = _bare(entry.sched_policy)
    if policy not in FAIR or not entry.sched_runtime_ns:
        return
    flags = RESET_ON_FORK if entry.sched_policy & os.SCHED_RESET_ON_FORK else 0
    runtime = entry.sched_runtime_ns
    attributes = SCHED_ATTR.pack(SCHED_ATTR.size, policy, flags, entry.sched_nice, 0, runtime, 0, 0)
    syscall("sched_setattr", tid, address_of(attributes), 0)
    if _slice_ns(tid) != runtime:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def _apply_io_priority(tid: int, entry: ThreadCoreEntry) -> None:
    """Without one of its own a thread has that of its nice value, which is told as if it had been set."""
    if entry.HasField("io_priority") and entry.io_priority != syscall("ioprio_get", IOPRIO_WHO_PROCESS, tid):
        syscall("ioprio_set", IOPRIO_WHO_PROCESS, tid, entry.io_priority)


def _apply_affinity(tid: int, entry: ThreadCoreEntry) -> None:
    mask = int.from_bytes(entry.cpu_affinity, "little")
    wanted = {cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1}
    if wanted and wanted != os.sched_getaffinity(tid):
        os.sched_setaffinity(tid, wanted)


def collect_limits(limits: Sequence[Limit]) -> TaskRlimitsEntry:
    """The 16 resource limits in the kernel's order, from /proc: prlimit(2) of another user's task may be refused."""
    return TaskRlimitsEntry(rlimits=[RlimitEntry(cur=_number(limit.soft), max=_number(limit.hard)) for limit in limits])


def _number(limit: int | None) -> int:
    return INFINITY if limit is None else limit


def apply_limits(pid: int, entry: TaskRlimitsEntry) -> list[str]:
    """Set them; a hard limit above ours needs CAP_SYS_RESOURCE and is told when it is not to be had."""
    notices = []
    for number, (limit, there) in enumerate(zip(entry.rlimits, all_limits(pid), strict=False)):
        if there == (limit.cur, limit.max):
            continue
        try:
            prlimit(pid, number, (limit.cur, limit.max))
        except PermissionError:
            hard = min(limit.max, prlimit(pid, number)[1])
            prlimit(pid, number, (min(limit.cur, hard), hard))
            name = RLIMIT_NAMES.get(number, str(number))
            notices.append(f"pid {pid}: {name}: hard limit {limit.max} lowered to {hard}: no CAP_SYS_RESOURCE here")
    return notices
