import os
from pathlib import Path

import pytest

from core.errors import ImageError
from core.images import kinds
from core.images.codec import Record
from core.images.inventory import check_inventory, make_inventory
from core.images.pb.core_pb2 import CoreEntry
from core.images.pb.descriptors_pb2 import PipeDataEntry
from core.images.pb.filesystem_pb2 import FsEntry
from core.images.pb.ids_pb2 import TaskKobjIdsEntry
from core.images.pb.inventory_pb2 import InventoryEntry
from core.images.pb.pstree_pb2 import PstreeEntry
from core.images.store import ImageSet, decode_stream, encode_stream, read_directory, write_directory
from tests.unit.images.samples import KINDS, SOME_ID, sample_records

IDS = TaskKobjIdsEntry(vm_id=1, files_id=1, fs_id=1, sighand_id=1)


def small_set() -> ImageSet:
    images = ImageSet()
    images.add(kinds.INVENTORY, make_inventory(IDS))
    images.add(kinds.PSTREE, PstreeEntry(pid=7, ppid=0, pgid=7, sid=7, threads=[7]))
    images.add(kinds.FS, FsEntry(cwd_id=1, root_id=2, umask=0o22), id=7)
    images.add(kinds.PIPES_DATA, PipeDataEntry(pipe_id=3, bytes=4), payload=b"left")
    images.add_empty(kinds.FDINFO, id=1)
    return images


def full_set() -> ImageSet:
    images = ImageSet()
    for kind in KINDS:
        for record in sample_records(kind):
            images.add(kind, record.message, SOME_ID if kind.has_id else None, record.payload)
    return images


def files_of(images: ImageSet) -> dict[str, object]:
    return {kind.file_name(id): records for kind, id, records in images}


def test_set_gives_back_what_was_added() -> None:
    images = small_set()
    assert images.one(kinds.FS, 7).umask == 0o22
    assert [entry.pid for entry in images.all(kinds.PSTREE)] == [7]
    assert images.payloads(kinds.PIPES_DATA) == [b"left"]
    assert images.ids(kinds.FS) == [7]
    assert images.has(kinds.FDINFO, 1)
    assert images.all(kinds.FDINFO, 1) == []
    assert not images.has(kinds.FDINFO, 2)


def test_missing_file_is_an_image_error_that_names_it() -> None:
    with pytest.raises(ImageError, match=r"core-9\.img: is missing"):
        small_set().one(kinds.CORE, 9)


def test_misuse_is_a_value_error() -> None:
    images = small_set()
    with pytest.raises(ValueError, match="an id is needed"):
        images.add(kinds.FS, FsEntry())
    with pytest.raises(ValueError, match="takes no id"):
        images.has(kinds.PSTREE, 7) or images.add(kinds.PSTREE, PstreeEntry(), id=7)
    with pytest.raises(ValueError, match="does not belong"):
        images.add(kinds.FS, CoreEntry(), id=8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has it"):
        images.add(kinds.FS, FsEntry(), id=7)


def test_directory_round_trip_keeps_everything_but_what_deleted_files_hold(tmp_path: Path) -> None:
    write_directory(full_set(), tmp_path)
    wanted = files_of(full_set())
    for name, records in wanted.items():
        if name.startswith("ghost-file-"):
            wanted[name] = [Record(records[0].message)]
    assert files_of(read_directory(tmp_path)) == wanted


def test_images_are_readable_by_the_owner_only(tmp_path: Path) -> None:
    write_directory(small_set(), tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_directory_may_hold_logs_and_raw_pages(tmp_path: Path) -> None:
    write_directory(small_set(), tmp_path)
    for name in ("dump.log", "criu.pid", "pages-1.img", "descriptors.json"):
        (tmp_path / name).write_bytes(b"not an image")
    (tmp_path / "parent").symlink_to("../earlier")
    assert files_of(read_directory(tmp_path)) == files_of(small_set())


def test_directory_with_an_unknown_image_is_refused(tmp_path: Path) -> None:
    write_directory(small_set(), tmp_path)
    (tmp_path / "iptables-9.img").write_bytes(b"")
    with pytest.raises(ImageError, match=r"iptables-9\.img"):
        read_directory(tmp_path)


def test_absent_directory_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_directory(tmp_path / "nowhere")


def test_fifo_in_place_of_an_image_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pstree.img")
    with pytest.raises(ImageError, match="not a regular file"):
        read_directory(tmp_path)


def test_file_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "pstree.img", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="too large"):
        read_directory(tmp_path)


def test_stream_round_trip_keeps_everything() -> None:
    assert files_of(decode_stream(encode_stream(full_set()))) == files_of(full_set())
    assert files_of(decode_stream(encode_stream(ImageSet()))) == {}


def test_stream_cut_anywhere_is_an_image_error() -> None:
    content = encode_stream(small_set())
    for length in range(len(content)):
        with pytest.raises(ImageError):
            decode_stream(content[:length])


def test_stream_with_any_bit_flipped_is_an_image_error() -> None:
    content = encode_stream(small_set())
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            with pytest.raises(ImageError):
                decode_stream(damaged)


def test_stream_with_something_behind_it_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="1 bytes after the end"):
        decode_stream(encode_stream(small_set()) + b"\0")


def test_stream_with_a_file_twice_is_an_image_error() -> None:
    images = ImageSet()
    images.add_empty(kinds.PSTREE)
    content = encode_stream(images)
    twice = content[:12] + b"\2\0\0\0" + content[16:] * 2
    with pytest.raises(ImageError, match="appears twice"):
        decode_stream(twice)


def test_stream_of_another_version_says_so() -> None:
    content = bytearray(encode_stream(small_set()))
    content[8] += 1
    with pytest.raises(ImageError, match="version 2"):
        decode_stream(content)


def test_inventory_we_make_passes_our_check() -> None:
    check_inventory(make_inventory(IDS))
    check_inventory(make_inventory(IDS, root_cg_set=1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (InventoryEntry(img_version=1), "version 1"),
        (InventoryEntry(img_version=3), "version 3"),
        (InventoryEntry(img_version=2, fdinfo_per_id=False), "too old"),
        (InventoryEntry(img_version=2, root_cg_set=0), "cgroup set 0"),
    ],
)
def test_inventory_of_another_layout_is_refused(change: InventoryEntry, reason: str) -> None:
    inventory = make_inventory(IDS)
    inventory.MergeFrom(change)
    with pytest.raises(ImageError, match=reason):
        check_inventory(inventory)
