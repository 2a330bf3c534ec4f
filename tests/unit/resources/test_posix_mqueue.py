"""POSIX message queues as images: damaged ones are errors of the image, and what was made goes if the restore fails."""

import os
import signal
from collections.abc import Callable

import pytest

from core.errors import ImageError, Refused
from core.images import kinds
from core.images.pb.descriptors_pb2 import FownEntry, MqueueEntry, MqueueFileEntry, MqueueMessage
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.store import ImageSet
from core.kernel.leftovers import adopt, sweep
from core.kernel.posix_mqueue import Message, copy_messages, open_queue, remove_queue
from core.plan.ghost_names import made_as, with_passing_names
from core.plan.queues import queues_of
from core.resources import posix_mqueue
from core.resources.posix_mqueue_store import MqueueStore
from tests.requires import require_root

NAME = f"migrate-store-{os.getpid()}"
NOBODY = FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0)


def entry(**changed: object) -> MqueueEntry:
    facts = {"id": 7, "name": NAME, "unlinked": False, "max_messages": 3, "message_size": 10, "uid": 1, "gid": 2}
    messages = [MqueueMessage(priority=2, text=b"two"), MqueueMessage(priority=0, text=b"")]
    return MqueueEntry(**{**facts, "mode": 0o100640, "messages": messages, **changed})  # type: ignore[arg-type]


def images(*queues: MqueueEntry) -> ImageSet:
    found = ImageSet()
    for queue in queues:
        found.add(kinds.MQUEUE, queue)
    return found


def there(name: str = NAME) -> bool:
    try:
        os.close(open_queue(name))
    except FileNotFoundError:
        return False
    return True


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "a/b"}, {"name": ""}, {"name": ".."}, {"name": "a\0b"}, {"name": "x" * 256}, {"max_messages": 0},
        {"max_messages": 1}, {"max_messages": 1 << 40}, {"message_size": 2}, {"message_size": 0},
        {"messages": [MqueueMessage(priority=1 << 15, text=b"")]},
    ],
    ids=lambda changed: "-".join(changed),
)  # fmt: skip
def test_a_queue_that_makes_no_sense_is_an_image_error(changed: dict[str, object]) -> None:
    assert queues_of(images(entry())).keys() == {7}
    with pytest.raises(ImageError, match=r"mqueue\.img"):
        queues_of(images(entry(**changed)))


def test_images_that_do_not_fit_together_are_an_image_error() -> None:
    with pytest.raises(ImageError, match="twice"):
        queues_of(images(entry(), entry()))
    file = FileEntry(type=FdTypes.MQUEUEFD, id=1, mqueue=MqueueFileEntry(id=1, flags=0, fown=NOBODY, queue_id=8))
    apart = images(entry())
    apart.add(kinds.FILES, file)
    with pytest.raises(ImageError, match="queue 8"):
        queues_of(apart)
    info = FdinfoEntry(id=1, flags=0, type=FdTypes.MQUEUEFD, fd=3)
    with pytest.raises(ImageError, match="task 5 does not have it open"):
        posix_mqueue.plan_notify([entry(notified=5)], {1: file}, [info], 5)
    assert posix_mqueue.plan_notify([entry(notified=5)], {1: file}, [info], 6) == ()


def test_an_unlinked_queue_is_planned_and_made_under_one_passing_name() -> None:
    nameless = entry(unlinked=True)
    [renamed] = with_passing_names(images(nameless), 99).all(kinds.MQUEUE)
    assert renamed.name == made_as(nameless, 99) != NAME
    assert with_passing_names(images(entry()), 99).all(kinds.MQUEUE)[0].name == NAME


def test_what_was_made_holds_its_messages_and_goes_when_the_restore_fails() -> None:
    require_root()
    store, nameless = MqueueStore(), entry(id=8, unlinked=True)
    passing = made_as(nameless, os.getpid())
    try:
        store.make(images(entry(), nameless))
        fd, other = open_queue(NAME), open_queue(passing)
        found = os.fstat(fd)
        assert (found.st_uid, found.st_gid, found.st_mode) == (1, 2, 0o100640)
        assert copy_messages(fd) == copy_messages(other) == [Message(2, b"two"), Message(0, b"")]
        os.close(fd)
        os.close(other)
        with pytest.raises(Refused, match="taken"):
            MqueueStore().make(images(entry()))
        store.settle()
        assert there() and not there(passing)
    finally:
        store.abandon()
    assert not there() and not there(passing)


def killed_after(work: Callable[[], object]) -> None:
    child = os.fork()
    if not child:
        try:
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_restore_left_behind_goes_unless_a_copy_has_it_open() -> None:
    require_root()
    killed_after(lambda: MqueueStore().make(images(entry())))
    fd = open_queue(NAME)
    try:
        sweep()
        assert there()
        os.close(fd)
        sweep()
        assert not there()
        killed_after(lambda: MqueueStore().make(images(entry())))
        fd = open_queue(NAME)
        adopt()
        os.close(fd)
        sweep()
        assert there()
    finally:
        fd = open_queue(NAME) if there() else -1
        if fd >= 0:
            remove_queue(NAME, os.fstat(fd).st_ino)
            os.close(fd)
