"""What becomes of files that were made with their names for a restore that failed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.images import kinds
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.store import ImageSet
from core.resources.ghost_file import Ghosts
from core.resources.ghost_store import GhostStore
from core.resources.regular_file import reg_file_entry
from tests.requires import require_root


def setup_module() -> None:
    require_root()


def images_of(path: Path) -> ImageSet:
    """Of a file that is carried with its name, and is not there any more."""
    images = ImageSet()
    with Ghosts(frozenset({str(path)})) as ghosts, path.open("w+") as file:
        ghost = ghosts.add(file.fileno(), str(path), "/", keeps_name=True)
        entry = FileEntry(type=FdTypes.REG, id=1, reg=reg_file_entry(1, str(path), 0, os.fstat(file.fileno())))
        images.add(kinds.FILES, entry)
        ghosts.describe_as(images, entry, ghost)
    path.unlink()
    return images


MEANWHILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, ""),
    "it is removed": (lambda path: path.unlink(), ""),
    "it is replaced": (lambda path: path.with_name("new").rename(path), "new"),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_only_what_was_made_is_removed(what: str, tmp_path: Path) -> None:
    meanwhile, left = MEANWHILE[what]
    path, new = tmp_path / "log", tmp_path / "new"
    images = images_of(path)
    store = GhostStore()
    try:
        store.make(images)
        assert path.read_text() == ""
        new.write_text("new")
        meanwhile(path)
        store.abandon()
        assert (path.read_text() if path.exists() else "") == left
    finally:
        store.close()


def test_a_name_goes_on_to_the_next_file_that_has_it(tmp_path: Path) -> None:
    """A log that is rotated between two rounds."""
    path = tmp_path / "log"
    rounds = [ImageSet(), ImageSet()]
    with Ghosts(frozenset({str(path)})) as ghosts:
        for images in rounds:
            with path.open("w+") as file:
                ghost = ghosts.add(file.fileno(), str(path), "/", keeps_name=True)
                reg = reg_file_entry(ghost.id, str(path), 0, os.fstat(file.fileno()))
                images.add(kinds.FILES, entry := FileEntry(type=FdTypes.REG, id=ghost.id, reg=reg))
                ghosts.describe_as(images, entry, ghost)
            path.rename(tmp_path / f"log.{ghost.id}")
    store = GhostStore()
    try:
        for number, images in enumerate(rounds, 1):
            store.make(images)
            assert store.ids() == [number]
            assert path.exists()
    finally:
        store.abandon()
        store.close()
