"""Who is in a live tree, and what they share, as images: at every round, and of the freeze."""

from collections.abc import Sequence

from core.images import kinds
from core.images.pb.tty_pb2 import TtyInfoEntry
from core.images.store import ImageSet
from core.live.ghosts import LiveGhosts
from core.live.shared import SharedPages
from core.prepare import family_images
from core.resources import ipc_namespace
from core.tracee.family import Family


def tree_images(
    family: Family, shared: SharedPages, ghosts: LiveGhosts, terminals: Sequence[TtyInfoEntry],
    collected: ImageSet | None,
) -> ImageSet:  # fmt: skip
    """`terminals`: that its sessions are led from. `collected`: images of the frozen tree, which tell of all that."""
    images = family_images(family, shared.segments.ipc_namespace, collected)
    if shared.segments.own_ipc:
        ipc_namespace.collect(images, collected)
    ghosts.describe(images)
    shared.describe(images)
    for entry in collected.all(kinds.TTY_INFO) if collected else terminals:
        images.add(kinds.TTY_INFO, entry)
    return images
