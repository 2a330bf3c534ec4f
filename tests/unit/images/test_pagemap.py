import os
from pathlib import Path

import pytest

from core.errors import ImageError
from core.images import kinds
from core.images.codec import Record, encode_file
from core.images.pagemap import PAGE_SIZE, PageFlags, PagemapReader, PagemapWriter, Run, parse_runs
from core.images.parent_link import link_parent
from core.images.pb.pagemap_pb2 import PagemapEntry, PagemapHead

PRESENT, PARENT, LAZY = PageFlags.PRESENT, PageFlags.PARENT, PageFlags.LAZY


def page(text: str) -> bytes:
    return text.encode() * (PAGE_SIZE // len(text))


def entry(address: int, nr_pages: int, flags: int = PRESENT) -> PagemapEntry:
    return PagemapEntry(vaddr=address, nr_pages=nr_pages, flags=flags)


def content_of(reader: PagemapReader, run: Run) -> bytes:
    assert run.offset is not None
    descriptor = reader.open_pages()
    try:
        return os.pread(descriptor, run.nr_pages * PAGE_SIZE, run.offset)
    finally:
        os.close(descriptor)


def write_small(directory: Path) -> None:
    with PagemapWriter(directory, 7) as writer:
        writer.append(0x10000, page("a") + page("b"))
        writer.append(0x20000, page("c"))


def test_pages_come_back_from_where_they_were_written(tmp_path: Path) -> None:
    with PagemapWriter(tmp_path, 7, pages_id=3) as writer:
        writer.append(0x10000, page("a") + page("b"))
        writer.in_parent(0x12000, 2)
        writer.append(0x14000, page("c"), lazy=True)
    reader = PagemapReader(tmp_path, 7)
    assert list(reader) == [
        Run(0x10000, 2, PRESENT, 0),
        Run(0x12000, 2, PARENT, None),
        Run(0x14000, 1, PRESENT | LAZY, 2 * PAGE_SIZE),
    ]
    assert reader.pages_name == "pages-3.img"
    assert content_of(reader, reader.runs[2]) == page("c")


def test_neighbouring_runs_become_one(tmp_path: Path) -> None:
    with PagemapWriter(tmp_path, 7) as writer:
        writer.append(0x10000, page("a"))
        writer.append(0x11000, page("b"))
        writer.in_parent(0x12000, 1)
        writer.in_parent(0x13000, 1)
    assert list(PagemapReader(tmp_path, 7)) == [Run(0x10000, 2, PRESENT, 0), Run(0x12000, 2, PARENT)]


def test_directory_descriptor_and_pipe_do_as_well(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        os.write(writing, page("a") + page("b"))
        with PagemapWriter(directory, 7, kind=kinds.SHMEM_PAGEMAP) as writer:
            writer.append_from_pipe(0x10000, 2, reading)
    finally:
        for descriptor in (reading, writing, directory):
            os.close(descriptor)
    reader = PagemapReader(tmp_path, 7, kind=kinds.SHMEM_PAGEMAP)
    assert content_of(reader, reader.runs[0]) == page("a") + page("b")


def test_pipe_that_ends_early_leaves_no_pagemap(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, page("a"))
    os.close(writing)
    with pytest.raises(ImageError, match="4096 bytes before the end"), PagemapWriter(tmp_path, 7) as writer:
        writer.append_from_pipe(0x10000, 2, reading)
    os.close(reading)
    assert not (tmp_path / "pagemap-7.img").exists()


def test_recorded_pages_may_be_stored_in_any_order_and_zero_ones_are_holes(tmp_path: Path) -> None:
    with PagemapWriter(tmp_path, 7) as writer:
        first, second = writer.record(0x10000, 2), writer.record(0x20000, 3)
        writer.store(second, page("c") + bytes(2 * PAGE_SIZE))
        writer.store(first, bytes(PAGE_SIZE) + page("b"))
    reader = PagemapReader(tmp_path, 7)
    assert [content_of(reader, run) for run in reader] == [
        bytes(PAGE_SIZE) + page("b"), page("c") + bytes(2 * PAGE_SIZE),
    ]  # fmt: skip
    assert (tmp_path / "pages-7.img").stat().st_blocks * 512 == 2 * PAGE_SIZE


def test_a_flipped_bit_in_any_page_is_found_and_named(tmp_path: Path) -> None:
    with PagemapWriter(tmp_path, 7) as writer:
        writer.append(0x10000, b"".join(page(letter) for letter in "abcdefgh"))
        writer.append(0x20000, page("i"))
    content = bytearray((tmp_path / "pages-7.img").read_bytes())
    for at in range(5, len(content), PAGE_SIZE - 1):
        content[at] ^= 0x10
        (tmp_path / "pages-7.img").write_bytes(content)
        content[at] ^= 0x10
        reader = PagemapReader(tmp_path, 7)
        descriptor = reader.open_pages()
        with pytest.raises(ImageError, match=rf"pages-7\.img: the page at offset {at & ~(PAGE_SIZE - 1):#x},"):
            for run in reader:
                reader.read(run, descriptor)
        os.close(descriptor)


def test_images_of_others_have_no_checksums_and_are_taken_as_they_are(tmp_path: Path) -> None:
    write_small(tmp_path)
    records = [Record(PagemapHead(pages_id=7)), Record(entry(0x10000, 2)), Record(entry(0x20000, 1))]
    (tmp_path / "pagemap-7.img").write_bytes(encode_file(kinds.PAGEMAP, "x", records))
    reader = PagemapReader(tmp_path, 7)
    descriptor = reader.open_pages()
    assert reader.read(reader.runs[0], descriptor) == page("a") + page("b")
    os.close(descriptor)


def test_pages_the_caller_forgot_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="0 bytes, its runs 4096"), PagemapWriter(tmp_path, 7) as writer:
        writer.record(0x10000, 1)


@pytest.mark.parametrize("address", [0x10000, 0xF000, 0x12800])
def test_writer_refuses_pages_out_of_order(tmp_path: Path, address: int) -> None:
    with pytest.raises(ImageError, match="out of order"), PagemapWriter(tmp_path, 7) as writer:
        writer.append(0x10000, page("a") * 2)
        writer.append(address, page("b"))


def test_writer_refuses_half_a_page(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not whole pages"), PagemapWriter(tmp_path, 7) as writer:
        writer.append(0x10000, b"half")


@pytest.mark.parametrize(
    "entries",
    [
        [entry(0x10001, 1)],
        [entry(0x10000, 0)],
        [entry(0x10000, 2), entry(0x11000, 1)],
        [entry(0x20000, 1), entry(0x10000, 1)],
        [entry((1 << 64) - PAGE_SIZE, 2)],
        [entry(0x10000, 1, 64)],
        [PagemapEntry(vaddr=0, nr_pages=0, wide_nr_pages=1 << 60)],
        [PagemapEntry(vaddr=0, nr_pages=1, blocks=b"")],
        [PagemapEntry(vaddr=0, nr_pages=2, page_crc32c=bytes(4))],
        [PagemapEntry(vaddr=0, nr_pages=1, flags=PARENT, page_crc32c=bytes(4))],
    ],
    ids=[
        "unaligned",
        "empty",
        "overlap",
        "descending",
        "beyond the end",
        "unknown flag",
        "huge",
        "compressed",
        "too few checksums",
        "checksums of what is elsewhere",
    ],
)
def test_bad_entries_are_refused(entries: list[PagemapEntry]) -> None:
    with pytest.raises(ImageError):
        parse_runs("x", entries)


def test_entries_of_older_and_newer_releases_are_understood() -> None:
    entries = [
        PagemapEntry(vaddr=0x1000, nr_pages=1),
        PagemapEntry(vaddr=0x2000, nr_pages=1, in_parent=True),
        PagemapEntry(vaddr=0x3000, nr_pages=0, flags=PRESENT, wide_nr_pages=2),
    ]
    assert parse_runs("x", entries) == [
        Run(0x1000, 1, PRESENT, 0),
        Run(0x2000, 1, PARENT),
        Run(0x3000, 2, PRESENT, PAGE_SIZE),
    ]


@pytest.mark.parametrize("change", [-1, 1, -PAGE_SIZE, PAGE_SIZE])
def test_pages_file_of_another_size_is_refused(tmp_path: Path, change: int) -> None:
    write_small(tmp_path)
    os.truncate(tmp_path / "pages-7.img", 3 * PAGE_SIZE + change)
    with pytest.raises(ImageError, match="needs 12288"):
        PagemapReader(tmp_path, 7)


def test_missing_pages_file_is_refused(tmp_path: Path) -> None:
    write_small(tmp_path)
    (tmp_path / "pages-7.img").unlink()
    with pytest.raises(ImageError, match=r"pages-7\.img: cannot be read"):
        PagemapReader(tmp_path, 7)


def test_pagemap_cut_anywhere_is_refused(tmp_path: Path) -> None:
    write_small(tmp_path)
    content = (tmp_path / "pagemap-7.img").read_bytes()
    for length in range(len(content)):
        (tmp_path / "pagemap-7.img").write_bytes(content[:length])
        if length == 8 + 6:  # the head alone: a pagemap without pages, and nothing says that it had some
            continue
        with pytest.raises(ImageError):
            PagemapReader(tmp_path, 7)


def test_pagemap_without_pages_needs_no_pages_file(tmp_path: Path) -> None:
    records = [Record(PagemapHead(pages_id=9)), Record(entry(0x1000, 1, LAZY))]
    (tmp_path / "pagemap-7.img").write_bytes(encode_file(kinds.PAGEMAP, "x", records))
    assert list(PagemapReader(tmp_path, 7)) == [Run(0x1000, 1, LAZY)]


def test_pages_are_found_through_two_parents(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("1", "2", "3"))
    for directory in (first, second, third):
        directory.mkdir()
    with PagemapWriter(first, 7) as writer:
        writer.append(0x10000, page("a") + page("b") + page("c") + page("d"))
    with PagemapWriter(second, 7) as writer:
        writer.in_parent(0x10000, 2)
        writer.append(0x12000, page("C"))
        writer.in_parent(0x13000, 1)
    with PagemapWriter(third, 7) as writer:
        writer.append(0x10000, page("A"))
        writer.in_parent(0x11000, 3)
    link_parent(second, "../1")
    link_parent(third, "../2")
    found = [(run.address, content_of(reader, run)) for run, reader in PagemapReader(third, 7).resolved()]
    assert found == [(0x10000, page("A")), (0x11000, page("b")), (0x12000, page("C")), (0x13000, page("d"))]


def test_page_that_no_parent_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    write_small(tmp_path / "1")
    with PagemapWriter(tmp_path / "2", 7) as writer:
        writer.in_parent(0x10000, 3)
    with pytest.raises(ImageError, match="page at 0x10000"):
        list(PagemapReader(tmp_path / "2", 7).resolved())
    link_parent(tmp_path / "2", "../1")
    with pytest.raises(ImageError, match="page at 0x12000"):
        list(PagemapReader(tmp_path / "2", 7).resolved())


def test_parents_in_a_circle_are_refused(tmp_path: Path) -> None:
    write_small(tmp_path)
    link_parent(tmp_path, ".")
    with pytest.raises(ImageError, match="go round"):
        list(PagemapReader(tmp_path, 7).resolved())


def test_parent_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    write_small(tmp_path)
    link_parent(tmp_path, "../gone")
    with pytest.raises(ImageError, match=r"leads to \.\./gone"):
        list(PagemapReader(tmp_path, 7).resolved())
