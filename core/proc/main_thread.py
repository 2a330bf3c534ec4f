"""Through which thread a process is looked at: its first, or another when that one has ended before the others.

Such a process shows neither memory nor descriptors in /proc/PID, all of it in /proc/TID.
"""

from collections.abc import Collection
from contextlib import suppress
from typing import Final

from core.proc.reader import ProcReader

DEAD_STATES: Final = frozenset("ZX")
LOOKS: Final = 10


def main_thread(pid: int, reader: ProcReader) -> int:
    """That thread of process `pid`, the oldest that lives; `pid` when none does."""
    with suppress(ProcessLookupError):
        for _ in range(LOOKS):  # threads may come and go faster than they are looked at
            stat = reader.stat(pid)
            if stat.state not in DEAD_STATES or stat.num_threads <= 1:
                break
            ages = {tid: reader.stat(tid, tid).start_time for tid in reader.tids(pid) if not is_dead(tid, reader)}
            if ages:
                return min(ages, key=lambda tid: (ages[tid], tid))
    return pid


def main_threads(reader: ProcReader, besides: Collection[int] = ()) -> list[int]:
    """Those of all processes but `besides`, which may be told by either number."""
    found = [main_thread(pid, reader) for pid in reader.pids() if pid not in besides]
    return [tid for tid in found if tid not in besides]


def is_dead(tid: int, reader: ProcReader) -> bool:
    """The thread has ended, whatever others of its process do."""
    try:
        return reader.stat(tid, tid).state in DEAD_STATES
    except ProcessLookupError:
        return True
