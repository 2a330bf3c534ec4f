"""POSIX message queues that the images of a tree speak of. Pure."""

from core.errors import ImageError
from core.images import kinds
from core.images.pb.descriptors_pb2 import MqueueEntry
from core.images.pb.files_pb2 import FdTypes
from core.images.store import ImageSet
from core.kernel.posix_mqueue import NAME_MAX, PRIORITIES, QueueNeed


def queues_of(images: ImageSet) -> dict[int, MqueueEntry]:
    """All of them by id; ImageError when one makes no sense, or a file is of one that is not there."""
    found: dict[int, MqueueEntry] = {}
    for queue in images.all(kinds.MQUEUE):
        if queue.id in found:
            raise ImageError(kinds.MQUEUE.file_name(), f"has queue {queue.id} twice")
        _check(queue)
        found[queue.id] = queue
    for entry in images.all(kinds.FILES):
        if entry.type == FdTypes.MQUEUEFD and entry.mqueue.queue_id not in found:
            reason = f"file {entry.id} is queue {entry.mqueue.queue_id}, which {kinds.MQUEUE.file_name()} does not have"
            raise ImageError(kinds.FILES.file_name(), reason)
    return found


def _check(queue: MqueueEntry) -> None:
    name = queue.name
    is_name = name not in ("", ".", "..") and "/" not in name and "\0" not in name
    if not is_name or len(name.encode()) > NAME_MAX:
        raise ImageError(kinds.MQUEUE.file_name(), f"queue {queue.id}: {name!r} is no name of a queue")
    if not 0 < queue.max_messages < 1 << 31 or not 0 < queue.message_size < 1 << 31:
        raise ImageError(kinds.MQUEUE.file_name(), f"queue {queue.id}: there is no queue of such a size")
    fits = all(len(one.text) <= queue.message_size and one.priority < PRIORITIES for one in queue.messages)
    if not fits or len(queue.messages) > queue.max_messages:
        raise ImageError(kinds.MQUEUE.file_name(), f"queue {queue.id}: its messages do not fit into it")


def need_of(queue: MqueueEntry) -> QueueNeed:
    """What has to be free for it."""
    return QueueNeed(queue.name, queue.max_messages, queue.message_size, queue.unlinked)
