"""POSIX message queues are read without losing anything, even when the reader is killed; asked for by making them."""

import errno
import os
import resource
import select
import signal
from collections.abc import Iterator

import pytest

from core.kernel.capabilities import capability_mask
from core.kernel.posix_mqueue import (
    Message,
    QueueNeed,
    copy_messages,
    device,
    is_message_queue,
    make_queue,
    names,
    open_queue,
    probe_queues,
    read_attributes,
    read_status,
    refuse_queue,
    remove_queue,
    send,
)
from core.proc.reader import ProcReader
from tests.requires import require_root
from tests.seeds import random_numbers

NAME = f"migrate-unit-{os.getpid()}"
MOST, SIZE = 10, 4000
KILLS = 60
UP_TO_S = 0.003
WAITING = [
    Message(9, b"first"), Message(9, b""), Message(4, b"x" * SIZE), Message(4, b"\0\xff"),
    *(Message(0, b"%d" % number * 300) for number in range(6)),
]  # fmt: skip


@pytest.fixture
def queue() -> Iterator[int]:
    """Full, with WAITING in the order in which they are received."""
    require_root()
    fd = make_queue(NAME, MOST, SIZE)
    try:
        for message in sorted(WAITING, key=lambda one: one.priority):
            send(fd, message)
        yield fd
    finally:
        remove_queue(NAME, os.fstat(fd).st_ino)
        os.close(fd)


def test_what_is_copied_stays_in_its_order(queue: int) -> None:
    before = read_attributes(queue), read_status(queue)
    for _ in range(3):
        assert copy_messages(queue) == WAITING
    assert (read_attributes(queue), read_status(queue)) == before
    assert before[1].size == sum(len(one.text) for one in WAITING)
    with pytest.raises(BlockingIOError):
        send(queue, WAITING[0])


def test_a_reader_that_is_killed_at_any_moment_loses_nothing(queue: int) -> None:
    numbers = random_numbers()
    for _ in range(KILLS):
        gone, held = os.pipe()
        reader = os.fork()
        if not reader:
            os.setpgid(0, 0)
            copy_messages(queue)
            os.write(held, b"+")
            while True:
                copy_messages(queue)
        os.close(held)
        assert os.read(gone, 1) == b"+"
        assert not select.select([gone], [], [], numbers.uniform(0, UP_TO_S))[0]
        os.killpg(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
        assert os.read(gone, 1) == b""  # who ends its work for it has gone too
        os.close(gone)
        assert copy_messages(queue) == WAITING


def test_a_name_that_comes_again_is_not_removed(queue: int) -> None:
    remove_queue(NAME, os.fstat(queue).st_ino + 1)
    os.close(open_queue(NAME))
    assert NAME in names() and device() == os.fstat(queue).st_dev
    assert is_message_queue(queue, os.fstat(queue))
    assert not is_message_queue(0, os.fstat(0))


def test_what_cannot_be_made_is_found_out_and_leaves_nothing(queue: int) -> None:
    taken, large, huge = QueueNeed(NAME, 1, 1), QueueNeed(f"{NAME}-2", 1 << 30, 1), QueueNeed("x", 1, (1 << 64) - 1)
    fine, unlinked = QueueNeed(f"{NAME}-3", MOST, SIZE), QueueNeed(NAME, MOST, SIZE, unlinked=True)
    failed = dict(probe_queues([taken, large, huge, fine, unlinked]))
    assert failed.keys() == {taken, large, huge} and failed[taken] == errno.EEXIST
    with pytest.raises(FileNotFoundError):
        open_queue(fine.name)


def test_more_than_a_user_may_have_in_all_is_found_out() -> None:
    """What is allowed to be raised is; more than that takes CAP_SYS_RESOURCE."""
    require_root()
    soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    each = MOST * SIZE
    needs = [QueueNeed(f"{NAME}-{number}", MOST, SIZE) for number in range(max(2, hard // each + 1))]
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (each, hard))
    try:
        assert probe_queues(needs[:2]) == ()
        if not ProcReader().status(os.getpid()).cap_eff & capability_mask("SYS_RESOURCE"):
            assert [error for _, error in probe_queues(needs)] == [errno.EMFILE]
    finally:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))


@pytest.mark.parametrize("error", [errno.EEXIST, errno.EINVAL, errno.ENOSPC, errno.EMFILE, errno.ENOMEM])
def test_every_reason_has_a_hint(error: int) -> None:
    blocker = refuse_queue(QueueNeed("jobs", 20, 100), error)
    assert blocker.hint and "/jobs" in blocker.subject
