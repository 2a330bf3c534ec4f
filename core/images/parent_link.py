"""The link from a directory of images to the one that it was made against."""

import os
from pathlib import Path

from core.errors import ImageError

PARENT_LINK = "parent"


def parent_directory(directory: Path) -> Path | None:
    """Where the parent link of a directory leads; None without a link, ImageError when it leads nowhere."""
    link = directory / PARENT_LINK
    if not link.is_symlink():
        return None
    if not link.is_dir():
        raise ImageError(str(link), f"leads to {os.readlink(link)}, which is not a directory")
    return link


def link_parent(directory: Path, previous: str) -> None:
    """Make the parent link; `previous` is relative to `directory`, so that both can be moved together."""
    (directory / PARENT_LINK).symlink_to(previous)


def link_anew(directory: Path, previous: str) -> None:
    """The parent link, in place of one that an earlier attempt has left."""
    (directory / PARENT_LINK).unlink(missing_ok=True)
    link_parent(directory, previous)
