"""pagemap-ID.img and the pages-N.img beside it: runs of pages written in order, and read back checked.

A run's pages are in the pages file, in the directory behind the `parent` link, or with a page server (lazy).
"""

import enum
import errno
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from heapq import merge
from pathlib import Path
from types import TracebackType
from typing import Self

from core.errors import ImageError
from core.images import kinds
from core.images.codec import Record, decode_file, encode_file
from core.images.kinds import Kind
from core.images.parent_link import parent_directory
from core.images.pb.pagemap_pb2 import PagemapEntry, PagemapHead
from core.images.store import read_file
from core.kernel.pages_file import CRC_BYTES, NOWHERE, FillTarget, fill_pages, page_crcs, store_pages
from core.kernel.process_vm import Buffer

PAGE_SIZE = 4096
READ_BACK_BYTES = 256 << 10
_ADDRESS_END = 1 << 64
_COUNT_END = 1 << 32  # nr_pages is a 32-bit field

PagemapKind = Kind[PagemapHead | PagemapEntry]


@dataclass(frozen=True, slots=True)
class DumpIds:
    """Which dump images are of, and since which one they have only what changed; "" for none."""

    dump: str = ""
    parent: str = ""


NO_IDS = DumpIds()


class PageFlags(enum.IntFlag):
    """Where the pages of a run are."""

    PARENT = 1  # in the images behind the parent link
    LAZY = 2  # may be fetched after the restore; present as well when the file has them
    PRESENT = 4  # in the pages file


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring pages of one kind; `offset` in bytes into the pages file, None when they are not in it.

    `checksums`: CRC-32C of each page, four bytes each; None in images that others wrote.
    """

    address: int
    nr_pages: int
    flags: PageFlags
    offset: int | None = None
    checksums: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def end(self) -> int:
        """Address behind the last page."""
        return self.address + self.nr_pages * PAGE_SIZE

    def clipped(self, start: int, end: int) -> "Run":
        """The part of the run inside [start, end), which must overlap it."""
        first, last = max(self.address, start), min(self.end, end)
        if (first, last) == (self.address, self.end):
            return self
        offset = None if self.offset is None else self.offset + first - self.address
        at, count = (first - self.address) // PAGE_SIZE, (last - first) // PAGE_SIZE
        checksums = self.checksums and self.checksums[at * CRC_BYTES : (at + count) * CRC_BYTES]
        return replace(self, address=first, nr_pages=count, offset=offset, checksums=checksums)


def parse_runs(name: str, entries: Iterable[PagemapEntry]) -> list[Run]:
    """Entries of a pagemap as runs; ImageError when they are unaligned, empty, out of order or overlapping."""
    runs: list[Run] = []
    end = offset = 0
    for entry in entries:
        run = _parse_run(name, entry, offset)
        if run.address < end:
            raise ImageError(name, f"the run at {run.address:#x} overlaps or precedes the one that ends at {end:#x}")
        if run.offset is not None:
            offset += run.nr_pages * PAGE_SIZE
        end = run.end
        runs.append(run)
    return runs


def _parse_run(name: str, entry: PagemapEntry, offset: int) -> Run:
    count = entry.wide_nr_pages if entry.HasField("wide_nr_pages") else entry.nr_pages
    where = f"the run of {count} pages at {entry.vaddr:#x}"
    if entry.vaddr % PAGE_SIZE or count == 0 or entry.vaddr + count * PAGE_SIZE > _ADDRESS_END:
        raise ImageError(name, f"{where} is not aligned, empty or beyond the address space")
    if entry.HasField("blocks") or entry.flags & ~sum(PageFlags):
        raise ImageError(name, f"{where} has compressed pages or flags {entry.flags:#x}, which we do not read")
    flags = _parse_flags(entry)
    checksums = entry.page_crc32c if entry.HasField("page_crc32c") else None
    if checksums is not None and (len(checksums) != count * CRC_BYTES or PageFlags.PRESENT not in flags):
        raise ImageError(name, f"{where} has {len(checksums)} bytes of checksums")
    return Run(entry.vaddr, count, flags, offset if PageFlags.PRESENT in flags else None, checksums)


def _parse_flags(entry: PagemapEntry) -> PageFlags:
    """Old releases write no flags, but in_parent or nothing at all for pages that are there."""
    if entry.in_parent:
        return PageFlags(entry.flags) | PageFlags.PARENT
    return PageFlags(entry.flags) if entry.HasField("flags") else PageFlags.PRESENT


class PagemapWriter:
    """Writes one pagemap and its pages, in ascending order of address; the pagemap appears at close().

    `directory` is a path or a directory's descriptor; `pages_id` is N of pages-N.img and must be unique in it.
    """

    def __init__(
        self,
        directory: Path | int,
        id: int,
        *,
        pages_id: int | None = None,
        kind: PagemapKind = kinds.PAGEMAP,
        ids: DumpIds = NO_IDS,
    ) -> None:
        self._directory = directory
        self._kind = kind
        self._name = kind.file_name(id)
        self._pages_id = id if pages_id is None else pages_id
        self._ids = ids
        self._runs: list[Run] = []
        self._inherited: list[Run] = []
        self._size = self._stored = 0
        self._checksums = bytearray()
        self._lock = threading.Lock()
        self.pages_fd = _create(directory, kinds.PAGES_FILE_NAME.format(id=self._pages_id))

    def append(self, address: int, pages: Buffer, *, lazy: bool = False) -> None:
        """Write whole pages that belong at `address`."""
        size = len(memoryview(pages).cast("B"))
        if size % PAGE_SIZE:
            raise ImageError(self._name, f"{size} bytes at {address:#x} are not whole pages")
        self.store(self.record(address, size // PAGE_SIZE, lazy=lazy), pages)

    def append_from_pipe(self, address: int, nr_pages: int, pipe_fd: int, *, lazy: bool = False) -> None:
        """Move `nr_pages` pages that belong at `address` from a pipe, without a copy where the kernel can."""
        self.store_from_pipe(self.record(address, nr_pages, lazy=lazy), nr_pages, pipe_fd)

    def record(self, address: int, nr_pages: int, *, lazy: bool = False) -> int:
        """Note a run whose pages are to be stored at the offset returned; close() checks that they were."""
        flags = PageFlags.PRESENT | PageFlags.LAZY if lazy else PageFlags.PRESENT
        offset = self._size
        self._add(Run(address, nr_pages, flags, offset), self._runs)
        self._size += nr_pages * PAGE_SIZE
        self._checksums += bytes(nr_pages * CRC_BYTES)
        return offset

    def store(self, offset: int, pages: Buffer) -> None:
        """Write pages of recorded runs to their place; those that are all zero become holes. From any thread."""
        try:
            self._note(offset, store_pages(self.pages_fd, offset, pages))
        except OSError as error:
            raise ImageError(self._name, f"its pages cannot be written: {error.strerror}") from error

    def store_from_pipe(self, offset: int, nr_pages: int, pipe_fd: int) -> None:
        """The same out of a pipe, as they are."""
        end = offset + nr_pages * PAGE_SIZE
        position = offset
        while position < end:
            moved = os.splice(pipe_fd, self.pages_fd, end - position, offset_dst=position)
            if moved == 0:
                raise ImageError(self._name, f"the pipe ended {end - position} bytes before the end of its pages")
            position += moved
        self._note(offset, self._checksums_of(offset, end))

    def _checksums_of(self, start: int, end: int) -> bytes:
        """Of pages that came without being seen."""
        buffer = memoryview(bytearray(min(end - start, READ_BACK_BYTES)))
        found = bytearray()
        for position in range(start, end, len(buffer)):
            part = buffer[: min(len(buffer), end - position)]
            if os.preadv(self.pages_fd, [part], position) != len(part):
                raise ImageError(self._name, f"its pages file ends before {end:#x}")
            found += page_crcs(part)
        return bytes(found)

    def _note(self, offset: int, checksums: bytes) -> None:
        place = offset // PAGE_SIZE * CRC_BYTES
        with self._lock:
            self._checksums[place : place + len(checksums)] = checksums
            self._stored += len(checksums) // CRC_BYTES * PAGE_SIZE

    def in_parent(self, address: int, nr_pages: int) -> None:
        """Note a run that has not changed since the images behind the parent link; ascending among their like."""
        self._add(Run(address, nr_pages, PageFlags.PARENT), self._inherited)

    def close(self) -> None:
        """Write the pagemap; ImageError when the pages file is not as long as the runs say."""
        try:
            if self._stored != self._size:
                raise ImageError(self._name, f"the pages file has {self._stored} bytes, its runs {self._size}")
            os.ftruncate(self.pages_fd, self._size)  # the last pages may be holes
            _write_file(self._directory, self._name, self._encode())
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give up the descriptor without writing a pagemap. Harmless after close()."""
        descriptor, self.pages_fd = self.pages_fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    def remove(self) -> None:
        """Give it up and leave no file of it."""
        self.abandon()
        for name in (self._name, kinds.PAGES_FILE_NAME.format(id=self._pages_id)):
            if not isinstance(self._directory, int):
                (self._directory / name).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Closed at the end of the block, abandoned when the block fails."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _encode(self) -> bytes:
        head = PagemapHead(pages_id=self._pages_id)
        if self._ids.dump:
            head.dump_id, head.parent_id = self._ids.dump, self._ids.parent
        records: list[Record[PagemapHead | PagemapEntry]] = [Record(head)]
        end = 0
        for run in merge(self._runs, self._inherited, key=lambda run: run.address):
            if run.address < end:
                raise ImageError(self._name, f"the page at {run.address:#x} is here and in the parent")
            end = run.end
            entry = PagemapEntry(vaddr=run.address, nr_pages=run.nr_pages, flags=run.flags)
            if run.offset is not None:
                first = run.offset // PAGE_SIZE * CRC_BYTES
                entry.page_crc32c = bytes(self._checksums[first : first + run.nr_pages * CRC_BYTES])
            records.append(Record(entry))
        return encode_file(self._kind, self._name, records)

    def _add(self, run: Run, runs: list[Run]) -> None:
        last = runs[-1] if runs else None
        if run.address % PAGE_SIZE or run.nr_pages <= 0 or (last is not None and run.address < last.end):
            raise ImageError(self._name, f"the run of {run.nr_pages} pages at {run.address:#x} is out of order")
        if last is not None and _can_join(last, run):
            runs[-1] = replace(last, nr_pages=last.nr_pages + run.nr_pages)
        else:
            runs.append(run)


def _can_join(last: Run, run: Run) -> bool:
    return last.end == run.address and last.flags == run.flags and last.nr_pages + run.nr_pages < _COUNT_END


class PagemapReader:
    """One pagemap, checked against its pages file when it is opened; iterating gives its runs."""

    def __init__(self, directory: Path, id: int, *, kind: PagemapKind = kinds.PAGEMAP) -> None:
        self._directory = directory
        self._id = id
        self._kind = kind
        self.name = kind.file_name(id)
        head, *entries = [record.message for record in decode_file(kind, self.name, read_file(directory / self.name))]
        assert isinstance(head, PagemapHead)  # the kind says so
        self.ids = DumpIds(head.dump_id, head.parent_id)
        self.pages_name = kinds.PAGES_FILE_NAME.format(id=head.pages_id)
        self.runs = parse_runs(self.name, (entry for entry in entries if isinstance(entry, PagemapEntry)))
        self._starts = [run.address for run in self.runs]
        if any(run.offset is not None for run in self.runs) or (directory / self.pages_name).exists():
            os.close(self.open_pages())

    @property
    def place(self) -> str:
        """Path of the pages file."""
        return str(self._directory / self.pages_name)

    def __iter__(self) -> Iterator[Run]:
        """The runs in ascending order of address."""
        return iter(self.runs)

    def open_pages(self) -> int:
        """A descriptor of the pages file, the caller's to close; ImageError when its size is not what the runs say."""
        expected = sum(run.nr_pages * PAGE_SIZE for run in self.runs if run.offset is not None)
        try:
            descriptor = os.open(self._directory / self.pages_name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(self.pages_name, f"cannot be read: {error.strerror}") from error
        size = os.fstat(descriptor).st_size
        if size != expected:
            os.close(descriptor)
            raise ImageError(self.pages_name, f"has {size} bytes, {self.name} needs {expected}")
        return descriptor

    def fill(self, run: Run, pages_fd: int, target: FillTarget = NOWHERE) -> None:
        """Copy a run of `pages_fd` (of open_pages) to where its pages belong in `target`, none that is not as it was
        written: ImageError names file and offset. OSError: the memory cannot be written.
        """
        if run.offset is None:
            raise ValueError("the run is not in this file")
        try:
            size = run.end - run.address
            done = fill_pages(target, pages_fd, run.offset, size, run.address, run.checksums)
        except OSError as error:
            if error.errno == errno.ENODATA:
                raise ImageError(self.pages_name, f"ends before the pages of {run.address:#x}") from error
            raise
        if done < size:
            place = f"the page at offset {run.offset + done:#x}, of address {run.address + done:#x}"
            raise ImageError(self.place, f"{place}, fails its checksum: it was changed")

    def read(self, run: Run, pages_fd: int) -> bytes:
        """The pages of a run, checked."""
        self.fill(run, pages_fd)
        return os.pread(pages_fd, run.end - run.address, run.offset or 0)

    def parent(self) -> "PagemapReader | None":
        """The same pagemap in the directory behind the parent link; None without one."""
        directory = parent_directory(self._directory)
        if directory is None or not (directory / self.name).exists():
            return None
        return PagemapReader(directory, self._id, kind=self._kind)

    def resolved(self) -> Iterator[tuple[Run, "PagemapReader"]]:
        """Every run with the reader that has its pages, the parents followed; ImageError where none has."""
        chain = self.chain()
        for run in self.runs:
            yield from _resolve(chain, 0, run)

    def chain(self) -> "list[PagemapReader]":
        """This one and all its parents; ImageError when the links go round."""
        chain, seen = [self], {self._directory.resolve()}
        while (parent := chain[-1].parent()) is not None:
            if parent._directory.resolve() in seen:
                raise ImageError(str(parent._directory), "the parent links go round")
            if chain[-1].ids.parent and parent.ids.dump != chain[-1].ids.parent:
                raise ImageError(
                    str(parent._directory / parent.name), "is not of the dump that its child was made against"
                )
            seen.add(parent._directory.resolve())
            chain.append(parent)
        return chain

    def overlapping(self, start: int, end: int) -> Iterator[Run]:
        """The runs inside [start, end), the first and the last one clipped."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        while index < len(self.runs) and self.runs[index].address < end:
            if self.runs[index].end > start:
                yield self.runs[index].clipped(start, end)
            index += 1


def _resolve(chain: list[PagemapReader], level: int, run: Run) -> Iterator[tuple[Run, PagemapReader]]:
    if PageFlags.PARENT not in run.flags:
        yield run, chain[level]
        return
    position = run.address
    if level + 1 < len(chain):
        for found in chain[level + 1].overlapping(run.address, run.end):
            if found.address != position:
                break
            yield from _resolve(chain, level + 1, found)
            position = found.end
    if position != run.end:
        raise ImageError(chain[level].name, f"the page at {position:#x} is said to be in the parent and is not there")


def _create(directory: Path | int, name: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    if isinstance(directory, int):
        return os.open(name, flags, 0o600, dir_fd=directory)
    return os.open(directory / name, flags, 0o600)


def _write_file(directory: Path | int, name: str, content: bytes) -> None:
    with open(_create(directory, name), "wb") as file:
        file.write(content)
