"""Directories of images that are truncated, corrupt, incomplete or foreign: a named error, and nothing was started."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from core.errors import ImageError, MigrateError
from core.images import kinds
from core.images.inventory import IMAGES_VERSION
from core.images.store import read_directory, write_directory
from tests.requires import require_root
from tests.roundtrip.targets import READER, children, own_fds, ready
from tests.seeds import random_numbers

CUTS = 6
FLIPS = 12
PROGRAMS = ["thread_ids.c", "pipe_content.c", "epoll.c", "listen_unix_path.c"]
# Files that may hold any number of messages: cut between two of them they are whole, and nothing can tell.
COUNTLESS = ("fdinfo-", "pipes-data")


@dataclass(frozen=True, slots=True)
class Dumped:
    pid: int
    images: Path

    def copy(self, to: Path) -> Path:
        """The directory again, to be spoilt."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.images, to)
        return to

    def names(self) -> list[str]:
        return sorted(os.listdir(self.images))


@pytest.fixture(scope="module", params=PROGRAMS)
def dumped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dumped:
    require_root()
    directory = tmp_path_factory.mktemp("d")
    images = directory / "images"
    images.mkdir()
    with ready(request.param, directory) as run:
        dump(run.pid, images, DumpOptions())
        return Dumped(run.pid, images)


class NotToRun(Exception):
    """The copy was whole up to its last step, which must not come."""


def restored(dumped: Dumped, images: Path) -> MigrateError | None:
    """What a restore says; None when it came to the point where the copy would run. Nothing is left either way."""

    def stop(pid: int) -> None:
        raise NotToRun

    ours, before = own_fds(), children()
    try:
        restore(images, RestoreOptions(), stop)
    except MigrateError as error:
        return error
    except NotToRun:
        return None
    finally:
        assert not READER.exists(dumped.pid)
        assert children() == before
        assert own_fds() == ours
    raise AssertionError("it runs")


def assert_image_error(error: MigrateError | None, what: str, *names: str) -> None:
    assert isinstance(error, ImageError), f"{what}: {error!r}"
    assert any(name in error.message for name in names), f"{what}: {error.message}"


def record_ends(content: bytes) -> Iterator[int]:
    """Where a file could end and be whole: behind its header and behind each message."""
    position = 8
    while position < len(content):
        yield position
        position += 4 + int.from_bytes(content[position : position + 4], "little")


def test_a_whole_directory_comes_to_its_last_step(dumped: Dumped) -> None:
    assert restored(dumped, dumped.images) is None


def test_a_file_cut_short_anywhere_is_an_image_error_that_names_it(dumped: Dumped, tmp_path: Path) -> None:
    numbers = random_numbers()
    for name in dumped.names():
        content = (dumped.images / name).read_bytes()
        lengths = {0, 1, len(content) - 1} | {numbers.randrange(len(content)) for _ in range(CUTS)}
        if name.startswith(COUNTLESS):
            lengths -= set(record_ends(content))
        for length in lengths:
            spoilt = dumped.copy(tmp_path / "spoilt")
            (spoilt / name).write_bytes(content[:length])
            error = restored(dumped, spoilt)
            assert_image_error(error, f"{name} cut to {length}", name)


def test_every_missing_file_is_an_image_error_that_names_it(dumped: Dumped, tmp_path: Path) -> None:
    for name in dumped.names():
        if name.startswith(("pipes-data", "timens")):
            continue  # a pipe that nobody could read has none; others' images have no clocks
        spoilt = dumped.copy(tmp_path / "spoilt")
        (spoilt / name).unlink()
        assert_image_error(restored(dumped, spoilt), f"without {name}", name)


def test_something_else_in_place_of_a_file_is_an_image_error_that_names_it(dumped: Dumped, tmp_path: Path) -> None:
    for name in dumped.names():
        spoilt = dumped.copy(tmp_path / "spoilt")
        (spoilt / name).unlink()
        os.mkfifo(spoilt / name)
        assert_image_error(restored(dumped, spoilt), f"{name} is a FIFO", name)


def test_bits_that_turned_over_give_an_error_of_ours_or_a_copy_that_is_not_started(
    dumped: Dumped, tmp_path: Path
) -> None:
    numbers = random_numbers()
    for name in dumped.names():
        if name.startswith("pages-"):
            continue  # memory is what it is
        content = (dumped.images / name).read_bytes()
        for _ in range(FLIPS):
            position, bit = numbers.randrange(len(content)), numbers.randrange(8)
            spoilt = dumped.copy(tmp_path / "spoilt")
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            (spoilt / name).write_bytes(changed)
            print(f"{name} byte {position} bit {bit}")
            error = restored(dumped, spoilt)
            if position < 8:
                assert_image_error(error, name, name)


@pytest.mark.parametrize("version", [0, IMAGES_VERSION - 1, IMAGES_VERSION + 1, 1 << 30])
def test_another_version_is_an_image_error_with_a_hint(dumped: Dumped, tmp_path: Path, version: int) -> None:
    spoilt = dumped.copy(tmp_path / "spoilt")
    images = read_directory(spoilt)
    images.one(kinds.INVENTORY).img_version = version
    write_directory(images, spoilt)
    error = restored(dumped, spoilt)
    assert_image_error(error, f"version {version}", "inventory.img")
    assert error is not None and str(version) in error.message and error.hint


def test_a_file_of_an_unknown_kind_is_named(dumped: Dumped, tmp_path: Path) -> None:
    spoilt = dumped.copy(tmp_path / "spoilt")
    (spoilt / "surprise.img").write_bytes(b"x" * 64)
    assert_image_error(restored(dumped, spoilt), "surprise", "surprise.img")


def test_an_empty_directory_and_no_directory_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name in ("empty", "file", "absent"):
        with pytest.raises(ImageError) as caught:
            restore(tmp_path / name, RestoreOptions())
        assert str(tmp_path / name) in caught.value.message
