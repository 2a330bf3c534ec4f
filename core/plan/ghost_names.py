"""Names of files that have none (ghosts): what their last name was, and the one they get while they are made. Pure."""

import os
import re
from typing import Final

from core.errors import ImageError
from core.images import kinds
from core.images.pb.descriptors_pb2 import MqueueEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.filesystem_pb2 import GHOST, LINKED, GhostFileEntry
from core.images.store import ImageSet

DELETED: Final = " (deleted)"
GHOST_MEMORY: Final = 1 << 31  # a ghost's number among the memories of a page stream: this and its id
LONGEST_BASE: Final = 190  # bytes of a name that leave room for our part of it
_OURS: Final = re.compile(r"\.migrate-[0-9a-f]+-[0-9a-f]+\Z")


def last_name(link: str) -> str:
    """The path that a deleted file had, from the kernel's link to it, without what we added in an earlier move."""
    return _OURS.sub("", link.removesuffix(DELETED))


def passing_name(path: str, ghost_id: int, maker: int) -> str:
    """The path under which process `maker` shows ghost `ghost_id` for the moment in which it is opened."""
    folder, _, name = path.rpartition("/")
    while len(os.fsencode(name)) > LONGEST_BASE:
        name = name[:-1]
    return f"{folder}/{name}.migrate-{maker:x}-{ghost_id:x}"


def made_as(queue: MqueueEntry, maker: int) -> str:
    """The name under which process `maker` makes a message queue: a passing one where it has none any more."""
    return passing_name(f"/{queue.name}", queue.id, maker)[1:] if queue.unlinked else queue.name


def ghosts_by_file(images: ImageSet) -> dict[int, int]:
    """File id → ghost id of all files without a name; ImageError when such a ghost is not in the images."""
    found = {}
    for remap in images.all(kinds.REMAP_FPATH):
        if remap.remap_type == GHOST and remap.HasField("remap_type"):
            if not images.has(kinds.GHOST_FILE, remap.remap_id):
                raise ImageError(kinds.GHOST_FILE.file_name(remap.remap_id), "is missing")
            found[remap.orig_id] = remap.remap_id
    return found


def ghost_paths(images: ImageSet) -> dict[int, str]:
    """Last path of every ghost that a file of the images leads to, by ghost id."""
    ghosts = ghosts_by_file(images)
    return {
        ghosts[entry.id]: entry.reg.name
        for entry in images.all(kinds.FILES)
        if entry.type == FdTypes.REG and entry.id in ghosts
    }


def kept_paths(images: ImageSet) -> set[str]:
    """Paths of files that are carried although they have a name."""
    kept = {id for id in images.ids(kinds.GHOST_FILE) if keeps_name(images, id)}
    return {path for id, path in ghost_paths(images).items() if id in kept}


def keeps_name(images: ImageSet, ghost_id: int) -> bool:
    """Whether the ghost is none but for how it is carried."""
    head = images.all(kinds.GHOST_FILE, ghost_id)[0]
    return isinstance(head, GhostFileEntry) and head.keeps_name


def linked_names(images: ImageSet) -> dict[int, str]:
    """File id → the name that was made for it, for files that had lost theirs; it goes when they are open."""
    files = {entry.id: entry.reg.name for entry in images.all(kinds.FILES) if entry.type == FdTypes.REG}
    found = {}
    for remap in images.all(kinds.REMAP_FPATH):
        if not remap.HasField("remap_type") or remap.remap_type == LINKED:
            if remap.remap_id not in files:
                raise ImageError(kinds.FILES.file_name(), f"does not have file {remap.remap_id}, a link's")
            found[remap.orig_id] = files[remap.remap_id]
    return found


def with_passing_names(images: ImageSet, maker: int) -> ImageSet:
    """The same images, where each file that has lost its name has the path to open it by, and a queue its name."""
    names = linked_names(images)
    ghosts, paths = ghosts_by_file(images), ghost_paths(images)
    names.update((id, passing_name(paths[ghost], ghost, maker)) for id, ghost in ghosts.items()
                 if ghost in paths and not keeps_name(images, ghost))  # fmt: skip
    if not names and not any(queue.unlinked for queue in images.all(kinds.MQUEUE)):
        return images
    renamed = ImageSet()
    for kind, id, records in images:
        renamed.add_empty(kind, id)
        for record in records:
            message = record.message
            if isinstance(message, FileEntry) and message.id in names:
                message = FileEntry.FromString(message.SerializeToString())
                message.reg.name = names[message.id]
            if isinstance(message, MqueueEntry):
                message = MqueueEntry.FromString(message.SerializeToString())
                message.name = made_as(message, maker)
            renamed.add(kind, message, id, record.payload)
    return renamed
