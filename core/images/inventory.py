"""inventory.img: the file that says what the others are. Made here and checked here; reads nothing itself."""

from core.errors import ImageError
from core.images.pb.ids_pb2 import TaskKobjIdsEntry
from core.images.pb.inventory_pb2 import NO_LSM, InventoryEntry

# Format v1.1: every file starts with a common magic, descriptor tables are numbered by files_id.
IMAGES_VERSION = 2


def make_inventory(root_ids: TaskKobjIdsEntry, *, root_cg_set: int | None = None) -> InventoryEntry:
    """The inventory of a dump whose host namespaces are `root_ids` and whose root is in cgroup set `root_cg_set`."""
    inventory = InventoryEntry(
        img_version=IMAGES_VERSION, fdinfo_per_id=True, ns_per_id=True, lsmtype=NO_LSM, root_ids=root_ids
    )
    if root_cg_set is not None:
        inventory.root_cg_set = root_cg_set
    return inventory


def check_inventory(inventory: InventoryEntry) -> None:
    """ImageError unless the images are of the version and the layout we read."""
    if inventory.img_version != IMAGES_VERSION:
        raise ImageError(
            "inventory.img",
            f"images of version {inventory.img_version}, this program reads {IMAGES_VERSION} (v1.1)",
            hint="restore them with the program that made them",
        )
    if not inventory.fdinfo_per_id:
        raise ImageError("inventory.img", "descriptor tables are not numbered by id: written by a release too old")
    if inventory.HasField("root_cg_set") and inventory.root_cg_set == 0:
        raise ImageError("inventory.img", "cgroup set 0 of the root does not exist")
