"""System V queues and semaphores before a move: what only the tree uses goes along, the rest is refused by name."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from core.errors import KernelLacks
from core.kernel.calls import address_of, syscall
from core.preflight import PreflightOptions, SysvNeed, TargetFindings, collect_facts
from core.proc.reader import ProcReader
from core.resources import sem_undo
from tests.requires import require_root
from tests.waiting import wait_until

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


SHARES = """
import ctypes, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
CLONE_SYSVSEM, SYS_CLONE, PR_SET_PDEATHSIG = 0x40000, 56, 1
set_id = libc.semget(0, 1, 0o1600)
def adjust():
    libc.semop(set_id, (ctypes.c_short * 3)(0, 1, 0o10000), 1)
    print(set_id, flush=True)
def adjust_alone():
    libc.unshare(CLONE_SYSVSEM)
    adjust()
    time.sleep(60)
if sys.argv[1] == "thread":
    threading.Thread(target=adjust_alone, daemon=True).start()
elif libc.syscall(SYS_CLONE, CLONE_SYSVSEM | signal.SIGCHLD, 0, 0, 0, 0) == 0:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    adjust()
while True: time.sleep(60)
"""

WAITS = """
import ctypes, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
set_id, queue = libc.semget(0, 1, 0o1600), libc.msgget(0, 0o1600)
threading.Thread(target=lambda: libc.semop(set_id, (ctypes.c_short * 3)(0, -1, 0), 1), daemon=True).start()
threading.Thread(target=lambda: libc.msgrcv(queue, bytes(16), 8, 0, 0), daemon=True).start()
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


def test_adjustments_go_along() -> None:
    with user(flags=SEM_UNDO) as (pid, set_id, _):
        assert not found(look(pid))
        of = sem_undo.find([pid], ProcReader().semaphore_sets(), ProcReader().tids).of
        assert {id: tuple(several) for id, several in of[pid].items()} == {set_id: (-1, 0)}


def test_a_set_that_others_used_last_is_known_by_its_adjustments() -> None:
    ups = struct.pack("<Hhh", 0, 1, 0)
    for flags, is_known in ((SEM_UNDO, True), (0, False)):
        with user(flags=flags) as (pid, set_id, _):
            syscall("semop", set_id, address_of(ups), 1)
            said = found(look(pid)).get("sysv-sem", "")
            assert (f"set {set_id} " in said and f"process {os.getpid()} " in said) == is_known


def test_adjustments_that_another_process_has_are_refused_by_name() -> None:
    for flags, is_known in ((SEM_UNDO, True), (0, False)):
        with user() as (pid, set_id, queue), user(set_id, queue, flags) as (other, *_):
            assert (
                any("adjustments" in one.reason and f" {other} " in one.reason for one in look(pid).blockers)
                == is_known
            )


def test_adjustments_that_nobody_can_see_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack() -> None:
        raise KernelLacks("BTF", "no such file")

    monkeypatch.setattr(sem_undo, "open_undo_lists", lack)
    with user(flags=SEM_UNDO) as (pid, *_):
        said = found(look(pid))["sysv-undo"]
        assert "SEM_UNDO" in said and "no such file" in said
    with user() as (pid, *_):
        assert not found(look(pid))


@pytest.mark.parametrize(("how", "said"), [("thread", "of its own"), ("process", "shares")])
def test_lists_that_are_shared_in_other_ways_than_those_of_threads_are_refused(how: str, said: str) -> None:
    argv = [sys.executable, "-c", SHARES, how]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    set_id = int(process.stdout.readline())
    try:
        assert said in found(look(process.pid))["sysv-undo"]
    finally:
        process.kill()
        process.communicate()
        syscall("semctl", set_id, 0, IPC_RMID, 0)


def test_what_nobody_has_used_yet_is_its_who_waits_for_it() -> None:
    argv = [sys.executable, "-c", WAITS]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        set_id, queue = map(int, process.stdout.readline().split())
        try:
            wanted = {SysvNeed(0, set_id, "sem"), SysvNeed(0, queue, "msg")}
            wait_until(lambda: wanted <= set(look(process.pid).record.sysv), "it waits for both")
        finally:
            process.kill()
            syscall("semctl", set_id, 0, IPC_RMID, 0)
            syscall("msgctl", queue, IPC_RMID, 0)
