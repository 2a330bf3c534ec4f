"""System V queues and semaphores before a move: what only the tree uses goes along, the rest is refused by name."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from core.kernel.calls import syscall
from core.preflight import PreflightOptions, SysvNeed, TargetFindings, collect_facts
from tests.requires import require_root

IPC_RMID = 0
SEM_UNDO = 0o10000
USES = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
IPC_PRIVATE, IPC_CREAT = 0, 0o1000
set_id, queue, flags = map(int, sys.argv[1:])
buffer = ctypes.create_string_buffer(bytes([1, 0, 0, 0, 0, 0, 0, 0, 65]))
if set_id < 0:
    set_id = libc.semget(IPC_PRIVATE, 2, IPC_CREAT | 0o600)
    queue = libc.msgget(IPC_PRIVATE, IPC_CREAT | 0o600)
    libc.semop(set_id, (ctypes.c_short * 3)(0, 1, flags), 1)
    libc.msgsnd(queue, buffer, 1, 0)
else:
    libc.semop(set_id, (ctypes.c_short * 3)(1, 1, flags), 1)
    libc.msgrcv(queue, buffer, 1, 0, 0)
print(set_id, queue, flush=True)
while True: time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@contextmanager
def user(set_id: int = -1, queue: int = -1, flags: int = 0) -> Iterator[tuple[int, int, int]]:
    """PID of a program that uses them, or some of its own, which are removed afterwards; the set, the queue."""
    is_owner = set_id < 0
    argv = [sys.executable, "-c", USES, str(set_id), str(queue), str(flags)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    set_id, queue = map(int, process.stdout.readline().split())
    try:
        yield process.pid, set_id, queue
    finally:
        process.kill()
        process.communicate()
        with suppress(OSError):
            if is_owner:
                syscall("semctl", set_id, 0, IPC_RMID, 0)
                syscall("msgctl", queue, IPC_RMID, 0)


def look(pid: int) -> TargetFindings:
    return collect_facts(pid, PreflightOptions())


def found(findings: TargetFindings) -> dict[str, str]:
    """Subject and reason of what is said of System V, by code."""
    return {one.code: f"{one.subject} {one.reason}" for one in findings.blockers if one.code.startswith("sysv")}


def test_what_only_it_uses_goes_along() -> None:
    with user() as (pid, set_id, queue):
        findings = look(pid)
        assert not found(findings)
        assert findings.record.sysv == (SysvNeed(0, set_id, "sem"), SysvNeed(0, queue, "msg"))


def test_what_another_process_uses_too_is_refused_by_name() -> None:
    with user() as (pid, set_id, queue), user(set_id, queue) as (other, *_):
        said = found(look(pid))
        assert said.keys() == {"sysv-sem", "sysv-msg"}
        assert f"queue {queue} " in said["sysv-msg"] and f"set {set_id} " in said["sysv-sem"]
        assert all(f"process {other} " in one for one in said.values())
        assert found(look(other)).keys() == said.keys()


def test_adjustments_that_nobody_can_see_are_refused() -> None:
    with user(flags=SEM_UNDO) as (pid, *_):
        assert "SEM_UNDO" in found(look(pid))["sysv-undo"]
