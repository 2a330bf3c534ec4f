"""POSIX message queues before a move: what only the tree has open goes along, the rest is refused by name."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from core.kernel.posix_mqueue import make_queue, remove_queue
from core.preflight import Destination, HostRecord, PreflightOptions, QueueNeed, TargetFindings, TargetRecord, judge
from core.preflight import collect_facts as look
from core.preflight.destination import look as look_there
from migrate.preflight import target_from_facts, target_to_facts
from tests.requires import require_root

NAME = f"migrate-preflight-{os.getpid()}"
SIGEV_SIGNAL, SIGEV_NONE, UNSHARE = 0, 1, -2
HOLDS = """
import ctypes, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
fd, notify, messages = map(int, sys.argv[1:])
if messages: assert libc.mq_send(fd, b"hello", 5, 1) == 0
if notify == -2: assert libc.unshare(0x08000000) == 0
if notify >= 0: assert libc.mq_notify(fd, struct.pack("=Qii48x", 0, signal.SIGUSR1, notify)) == 0
print(flush=True)
while True: time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.fixture
def queue() -> Iterator[int]:
    fd = make_queue(NAME, 5, 100)
    inode = os.fstat(fd).st_ino
    os.set_inheritable(fd, True)
    try:
        yield fd
    finally:
        remove_queue(NAME, inode)
        os.close(fd)


@contextmanager
def holder(fd: int, notify: int = -1, messages: int = 0) -> Iterator[int]:
    """PID of a program that has `fd`, and is registered as mq_notify(3)'s `notify` says; UNSHARE: in another IPC
    namespace."""
    argv = [sys.executable, "-c", HOLDS, str(fd), str(notify), str(messages)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=[fd])
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def findings(pid: int) -> TargetFindings:
    return look(pid, PreflightOptions())


def said(pid: int) -> dict[str, str]:
    """Subject and reason of what is said of queues, by code."""
    of_queues = [one for one in findings(pid).blockers if NAME in one.subject]
    assert all(one.hint for one in of_queues)
    return {one.code: f"{one.subject} {one.reason}" for one in of_queues}


def test_what_only_it_has_open_goes_along_and_is_needed_over_there(queue: int) -> None:
    with holder(queue, SIGEV_NONE) as pid:  # we have it too, and are not outside
        assert said(pid) == {}
        record = findings(pid).record
        assert record.queues == (QueueNeed(NAME, 5, 100),)
        assert not any(NAME in need.path for need in record.files)
        assert target_from_facts(target_to_facts(record)).queues == record.queues


def test_an_unlinked_one_needs_no_name(queue: int) -> None:
    remove_queue(NAME, os.fstat(queue).st_ino)
    with holder(queue) as pid:
        assert said(pid) == {}
        assert findings(pid).record.queues == (QueueNeed(NAME, 5, 100, unlinked=True),)


def test_what_another_process_has_open_too_is_refused_by_name(queue: int) -> None:
    with holder(queue) as pid, holder(queue) as other:
        assert f"process {other} " in said(pid)["fd-shared"]


@pytest.mark.parametrize(
    ("notify", "messages", "reason"),
    [(SIGEV_SIGNAL, 0, "value"), (SIGEV_NONE, 1, "use that up")],
)
def test_a_notification_that_nobody_could_put_back_is_refused(
    notify: int, messages: int, reason: str, queue: int
) -> None:
    with holder(queue, notify, messages) as pid:
        blocker = said(pid)["fd-mqueue-notify"]
        assert reason in blocker and f"process {pid} " in blocker


def test_a_notification_of_another_process_is_refused(queue: int) -> None:
    with holder(queue, SIGEV_NONE) as other, holder(queue) as pid:
        assert f"process {other} is registered" in said(pid)["fd-mqueue-notify"]


def test_one_of_another_ipc_namespace_than_the_tree_is_in_is_refused(queue: int) -> None:
    with holder(queue, UNSHARE) as pid:
        assert "another IPC namespace" in said(pid)["fd-mqueue"]


def test_a_name_that_is_taken_over_there_is_refused_before_the_move(queue: int) -> None:
    target = TargetRecord(queues=(QueueNeed(NAME, 5, 100), QueueNeed(NAME, 5, 100, unlinked=True)))
    here = look_there(target, host=HostRecord(hostname="host-b"))
    assert here.queues == ((target.queues[0], errno.EEXIST),)
    refused = [one for one in judge(target, replace(here, files={})).blockers if one.code == "mqueue-taken"]
    assert [NAME in one.subject for one in refused] == [True]


def test_limits_over_there_are_said_before_the_move() -> None:
    need = QueueNeed("jobs", 1000, 100)
    found = judge(TargetRecord(), Destination(HostRecord(), queues=((need, errno.EINVAL),))).blockers
    assert [one.code for one in found if "/jobs" in one.subject] == ["mqueue-limits"]
