"""A dump from a kernel with another vDSO is refused before anything is started."""

import os
import struct
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from core.errors import ImageError, RestoreError
from core.images import kinds
from core.images.codec import decode_file, encode_file
from core.images.pagemap import PagemapReader
from core.images.pb.pagemap_pb2 import PagemapEntry
from core.vdso.layout import read_vdso_layout
from tests.requires import require_root
from tests.roundtrip.targets import READER, own_fds, ready

CLOCK = "__vdso_clock_gettime"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A dump of a program that has ended, so that only the vDSO stands in the way of its restore."""
    require_root()
    directory = tmp_path / "images"
    directory.mkdir()
    with ready("vdso_time.c", tmp_path) as run:
        vdso = next(vma for vma in READER.maps(run.pid) if vma.name == "[vdso]")
        dump(run.pid, directory, DumpOptions())
    forget_checksums(directory / f"pagemap-{run.pid}.img")
    pagemap = PagemapReader(directory, run.pid)
    [found] = pagemap.overlapping(vdso.start, vdso.end)
    (directory / "vdso").write_text(f"{pagemap.pages_name} {found.offset} {vdso.size}")
    return directory


def forget_checksums(path: Path) -> None:
    """As CRIU would have written it: another kernel's [vdso] is no damaged page."""
    records = decode_file(kinds.PAGEMAP, path.name, path.read_bytes())
    for record in records:
        if isinstance(record.message, PagemapEntry):
            record.message.ClearField("page_crc32c")
    path.write_bytes(encode_file(kinds.PAGEMAP, path.name, records))


def change_vdso(directory: Path, old: bytes, new: bytes) -> None:
    name, offset, size = (directory / "vdso").read_text().split()
    with open(directory / name, "r+b") as file:
        file.seek(int(offset))
        content = file.read(int(size))
        assert old in content
        file.seek(int(offset))
        file.write(content.replace(old, new))


def assert_starts_nothing(directory: Path, error: type[Exception], match: str) -> None:
    before, children = own_fds(), READER.children(os.getpid())
    with pytest.raises(error, match=match):
        restore(directory, RestoreOptions())
    assert (own_fds(), READER.children(os.getpid())) == (before, children)


def test_a_function_elsewhere_in_the_dump_is_refused(images: Path) -> None:
    offset, size = next((offset, size) for name, offset, size in read_vdso_layout().symbols if name == CLOCK)
    change_vdso(images, struct.pack("<QQ", offset, size), struct.pack("<QQ", offset + 32, size))
    assert_starts_nothing(images, RestoreError, "vDSO differs.*clock_gettime")


def test_a_dump_whose_vdso_is_no_elf_image_is_refused(images: Path) -> None:
    change_vdso(images, b"\x7fELF", b"none")
    assert_starts_nothing(images, ImageError, "vdso")
