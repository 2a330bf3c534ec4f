"""Makes the POSIX message queues of a tree that is restored, filled, before any of its tasks opens one by its name."""

import errno
import os
import stat
from contextlib import suppress

from core.errors import Refused, RestoreError
from core.images.pb.descriptors_pb2 import MqueueEntry
from core.images.store import ImageSet
from core.kernel.leftovers import Leftovers, sweep
from core.kernel.posix_mqueue import Message, describe, make_queue, refuse_queue, remove_queue, send
from core.plan.ghost_names import made_as
from core.plan.queues import need_of, queues_of
from core.plan.segments import has_own_ipc


class MqueueStore:
    """Those of one restore. Whoever fails calls abandon()."""

    def __init__(self) -> None:
        self._made: dict[str, int] = {}  # names that are there now: inodes
        self._passing: list[str] = []  # those among them that nobody shall find
        self._own_ipc = False  # they are in an IPC namespace of the tree's, and go with it
        self._leftovers = Leftovers()

    def make(self, images: ImageSet) -> None:
        """All of them, with their messages. Refused when a name is taken here, or one is beyond what we may have."""
        queues, self._own_ipc = queues_of(images), has_own_ipc(images)
        if queues:
            sweep()
        for queue in queues.values():
            self._make(queue, made_as(queue, os.getpid()))

    def _make(self, queue: MqueueEntry, name: str) -> None:
        try:
            fd = make_queue(name, queue.max_messages, queue.message_size)
        except OSError as error:
            raise Refused([refuse_queue(need_of(queue), error.errno or 0)]) from error
        try:
            self._made[name] = os.fstat(fd).st_ino
            if not self._own_ipc:
                self._leftovers.note_queue(name, fd)
            if queue.unlinked:
                self._passing.append(name)
            for message in queue.messages:
                send(fd, Message(message.priority, message.text))
            os.fchown(fd, queue.uid, queue.gid)
            os.fchmod(fd, stat.S_IMODE(queue.mode))
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO)
            raise RestoreError(f"{describe(queue.name)}: cannot be filled: {reason}") from error
        finally:
            os.close(fd)

    def settle(self) -> None:
        """Every task has opened them: those that had no name have none any more."""
        while self._passing:
            self._remove(self._passing.pop())

    def _remove(self, name: str) -> None:
        with suppress(OSError):  # somebody was faster
            remove_queue(name, self._made.pop(name))

    def abandon(self) -> None:
        """The restore failed: none stays. Idempotent."""
        for name in () if self._own_ipc else list(self._made):
            self._remove(name)
        self._passing.clear()
        self._leftovers.clear()

    def commit(self) -> None:
        """The tasks are about to run: all of it is theirs."""
        self._leftovers.clear()
