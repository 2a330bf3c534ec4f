"""Refusals of System V message queues and semaphores that the tree used: neither is carried yet.

The kernel does not tell who has one, only who used it last: a queue or set that a process merely made, or that
somebody else used since, goes unnoticed.
"""

from typing import Final

from core.errors import Blocker
from core.kernel.calls import syscall
from core.proc.reader import ProcReader
from core.tracee.family import Family

GETPID: Final = 11
SEMAPHORES_LOOKED_AT: Final = 1024  # of one set
HINT: Final = "end it and start it over there, or have it use a socket or POSIX semaphores in shared memory"


def refuse_sysv(reader: ProcReader, family: Family) -> list[Blocker]:
    """Every queue and set that a process of the tree was the last to use."""
    mine = {member.pid for member in family.living}
    found = []
    for id, users in reader.message_queues().items():
        if user := next((pid for pid in users if pid in mine), 0):
            reason = f"used System V message queue {id}, which is not carried yet"
            found.append(Blocker("sysv-msg", f"pid {user}", reason, HINT))
    for id, count in reader.semaphore_sets().items():
        last = {last_user(id, number) for number in range(min(count, SEMAPHORES_LOOKED_AT))}
        if user := next(iter(last & mine), 0):
            reason = f"used System V semaphore set {id}, which is not carried yet"
            found.append(Blocker("sysv-sem", f"pid {user}", reason, HINT))
    return found


def last_user(id: int, number: int) -> int:
    """PID of who changed the semaphore last; 0 when nobody did, or when we may not know."""
    try:
        return syscall("semctl", id, number, GETPID, 0)
    except OSError:
        return 0
