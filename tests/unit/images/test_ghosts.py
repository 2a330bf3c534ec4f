"""What deleted files hold goes through a directory piece by piece; damage is named."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ImageError
from core.images.ghosts import GhostImage, write_ghost
from core.images.kinds import GHOST_FILE
from core.images.pb.filesystem_pb2 import GhostFileEntry

HEAD = GhostFileEntry(uid=1, gid=2, mode=0o100600, chunks=True, size=5000)


def written(directory: Path) -> Path:
    write_ghost(directory, 10, HEAD, [(0, memoryview(b"begin")), (4096, memoryview(b"x" * 4096))])
    return directory / GHOST_FILE.file_name(10)


def test_pieces_come_back_and_what_is_beyond_the_end_is_cut_off(tmp_path: Path) -> None:
    with GhostImage(written(tmp_path)) as image:
        assert image.head == HEAD
        assert list(image.content()) == [(0, b"begin"), (4096, b"x" * 904)]


def test_every_truncation_is_an_image_error(tmp_path: Path) -> None:
    write_ghost(tmp_path, 1, HEAD, [(0, memoryview(b"begin"))])
    whole = (tmp_path / "ghost-file-1.img").read_bytes()
    between = len(GHOST_FILE.header) + 4 + HEAD.ByteSize()  # a file may end there: all of it a hole
    damaged = tmp_path / "damaged"
    for size in set(range(len(whole))) - {between}:
        damaged.write_bytes(whole[:size])
        with pytest.raises(ImageError), GhostImage(damaged) as image:
            list(image.content())


def test_a_message_of_absurd_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ghost-file-a.img"
    path.write_bytes(GHOST_FILE.header + b"\xff\xff\xff\x7f")
    with pytest.raises(ImageError, match="a message of"):
        GhostImage(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_and_never_more_comes_out_than_went_in(noise: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ghost-file-1.img"
        path.write_bytes(GHOST_FILE.header + noise)
        with suppress(ImageError), GhostImage(path) as image:
            assert sum(len(content) for _, content in image.content()) <= len(noise)
