"""Which dump a directory of images holds, of which processes, and whether its parents are the ones it was made against.

Names are in inventory.img; images that others wrote have none, and are told by what they contain alone.
"""

import uuid
from pathlib import Path

from core.errors import ImageError
from core.images import kinds
from core.images.codec import decode_file
from core.images.inventory import check_inventory
from core.images.parent_link import PARENT_LINK, parent_directory
from core.images.pb.inventory_pb2 import DumpedTask, InventoryEntry
from core.images.store import read_file


def new_dump_id() -> str:
    """Names a dump for good."""
    return uuid.uuid4().hex


def read_boot_id() -> str:
    """Of the running kernel: start times count from its boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_inventory(directory: Path) -> InventoryEntry:
    """inventory.img of a directory, checked."""
    name = kinds.INVENTORY.file_name()
    if not (directory / name).exists():
        raise ImageError(str(directory), f"holds no {name}: not a directory of images")
    [record] = decode_file(kinds.INVENTORY, name, read_file(directory / name))
    check_inventory(record.message)
    return record.message


def task_of(inventory: InventoryEntry, pid: int) -> DumpedTask | None:
    """What is known of the process that the tree calls `pid`."""
    return next((task for task in inventory.tasks if task.pid == pid), None)


def check_lineage(directory: Path) -> None:
    """ImageError unless every parent is there and is the very dump that its child was made against."""
    seen = set()
    inventory = read_inventory(directory)
    while (parent := parent_directory(directory)) is not None:
        if parent.resolve() in seen:
            raise ImageError(str(parent), "the parent links go round")
        seen.add(parent.resolve())
        found = read_inventory(parent)
        if inventory.parent_id and found.dump_id != inventory.parent_id:
            raise ImageError(
                str(parent), f"is not the dump that {directory} was made against ({inventory.parent_id[:12]})",
                hint="the parent was replaced or moved: put the right directory back",
            )  # fmt: skip
        directory, inventory = parent, found
    if inventory.parent_id:
        raise ImageError(str(directory / PARENT_LINK), "is missing: the directory holds only what had changed")
