"""A dump as a stream of bytes is the dump; and `restore --plan` tells what would be done without doing it."""

import os
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, decode_stream, dump, encode_stream, plan_text
from core.errors import ImageError
from core.images import kinds
from core.images.store import read_directory, write_directory
from core.resources.vmas import is_kernel_vma
from tests.requires import require_root
from tests.roundtrip.targets import READER, ready
from tests.seeds import random_numbers

PROGRAMS = ["threads50.c", "pipe_content.c", "epoll.c", "timerfd.c", "listen_tcp4.c", "file_mapping_private.c"]


@pytest.fixture(scope="module", params=PROGRAMS)
def dumped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_root()
    directory = tmp_path_factory.mktemp("d")
    images = directory / "images"
    images.mkdir()
    with ready(request.param, directory) as run:
        dump(run.pid, images, DumpOptions())
    return images


def test_a_dump_as_a_stream_is_the_dump(dumped: Path, tmp_path: Path) -> None:
    images = read_directory(dumped)
    again = decode_stream(encode_stream(images))
    assert list(again) == list(images)
    write_directory(again, tmp_path)
    for name in os.listdir(tmp_path):
        assert (tmp_path / name).read_bytes() == (dumped / name).read_bytes(), name
    left = set(os.listdir(dumped)) - {name for name in os.listdir(dumped) if name.startswith("pages-")}
    assert set(os.listdir(tmp_path)) == left


def test_a_stream_cut_short_or_changed_anywhere_is_an_image_error(dumped: Path) -> None:
    numbers = random_numbers()
    stream = encode_stream(read_directory(dumped))
    for _ in range(100):
        position = numbers.randrange(len(stream))
        with pytest.raises(ImageError):
            decode_stream(stream[:position])
        changed = bytearray(stream)
        changed[position] ^= 1 << numbers.randrange(8)
        with pytest.raises(ImageError):
            decode_stream(changed)


def test_a_plan_names_files_memory_and_threads_and_starts_nothing(dumped: Path) -> None:
    images = read_directory(dumped)
    entry = images.one(kinds.PSTREE)
    lines = plan_text(dumped, RestoreOptions()).splitlines()
    assert not READER.exists(entry.pid)
    text = "\n".join(lines)
    vmas = [vma for vma in images.one(kinds.MM, entry.pid).vmas if not is_kernel_vma(vma)]
    for before_it, vma in zip([None, *vmas], vmas, strict=False):
        if before_it is None or before_it.end != vma.start:  # neighbours of one kind are mapped in one go
            assert f"{vma.start:#x}" in text
    for file in images.all(kinds.FILES):
        if file.HasField("reg") and file.reg.name != "/":
            assert file.reg.name in text
        if file.HasField("isk"):
            assert str(file.isk.src_port) in text
    for tid in entry.threads:
        assert str(tid) in text
    assert lines[0].startswith("ROOT_TASK") and lines[-1].startswith("resume")
