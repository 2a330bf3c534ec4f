"""How a thread is scheduled, on CPUs and for I/O; and process limits. Read and set from outside, by tid."""

import errno
import os
import resource
import struct
from collections.abc import Callable, Sequence
from typing import Final

from core.images.pb.core_pb2 import RlimitEntry, TaskRlimitsEntry, ThreadCoreEntry
from core.kernel.calls import address_of, prlimit, syscall
from core.proc.limits import Limit

INFINITY: Final = (1 << 64) - 1
RLIMIT_NAMES: Final = {
    getattr(resource, name): name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
SCHED_DEADLINE: Final = 6
SCHED_ATTR: Final = struct.Struct("<IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
IOPRIO_WHO_PROCESS: Final = 1
REALTIME: Final = frozenset({os.SCHED_FIFO, os.SCHED_RR})


def collect(tid: int, entry: ThreadCoreEntry) -> None:
    """Fill the scheduling fields of a thread's image. affinity: the kernel's mask, little-endian bytes."""
    policy = os.sched_getscheduler(tid)
    entry.sched_policy = policy
    entry.sched_nice = os.getpriority(os.PRIO_PROCESS, tid)
    if policy & ~os.SCHED_RESET_ON_FORK in REALTIME:
        entry.sched_prio = os.sched_getparam(tid).sched_priority
    elif policy & ~os.SCHED_RESET_ON_FORK == SCHED_DEADLINE:
        _collect_deadline(tid, entry)
    entry.io_priority = syscall("ioprio_get", IOPRIO_WHO_PROCESS, tid)
    cpus = os.sched_getaffinity(tid)
    mask = sum(1 << cpu for cpu in cpus)
    entry.cpu_affinity = mask.to_bytes((max(cpus) // 8) + 1, "little")


def _collect_deadline(tid: int, entry: ThreadCoreEntry) -> None:
    buffer = bytearray(SCHED_ATTR.size)
    syscall("sched_getattr", tid, address_of(buffer), SCHED_ATTR.size, 0)
    _, _, flags, _, _, runtime, deadline, period = SCHED_ATTR.unpack(buffer)
    entry.sched_flags, entry.sched_runtime_ns, entry.sched_deadline_ns = flags, runtime, deadline
    entry.sched_period_ns = period


def apply(tid: int, entry: ThreadCoreEntry) -> list[str]:
    """Set them on a thread of ours; what this host does not allow is told, not fatal."""
    notices = []
    actions: tuple[tuple[str, Callable[[], None]], ...] = (
        ("nice", lambda: os.setpriority(os.PRIO_PROCESS, tid, entry.sched_nice)),
        ("scheduling policy", lambda: _apply_policy(tid, entry)),
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
    if entry.sched_runtime_ns:
        _apply_deadline(tid, entry)
    elif os.sched_getscheduler(tid) != entry.sched_policy or entry.sched_prio:
        os.sched_setscheduler(tid, entry.sched_policy, os.sched_param(entry.sched_prio))


def _apply_deadline(tid: int, entry: ThreadCoreEntry) -> None:
    policy = entry.sched_policy & ~os.SCHED_RESET_ON_FORK
    times = entry.sched_runtime_ns, entry.sched_deadline_ns, entry.sched_period_ns
    attributes = SCHED_ATTR.pack(SCHED_ATTR.size, policy, entry.sched_flags, 0, 0, *times)
    syscall("sched_setattr", tid, address_of(attributes), 0)


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
    for number, limit in enumerate(entry.rlimits):
        if prlimit(pid, number) == (limit.cur, limit.max):
            continue
        try:
            prlimit(pid, number, (limit.cur, limit.max))
        except PermissionError:
            hard = min(limit.max, prlimit(pid, number)[1])
            prlimit(pid, number, (min(limit.cur, hard), hard))
            name = RLIMIT_NAMES.get(number, str(number))
            notices.append(f"pid {pid}: {name}: hard limit {limit.max} lowered to {hard}: no CAP_SYS_RESOURCE here")
    return notices
