"""The [vdso] that a task was dumped with, out of its pages. Starts nothing."""

import os
from collections.abc import Mapping

from core.images.pagemap import PagemapReader, Run
from core.vdso.layout import parse_symbols


def read_dumped_vdso(pagemap: PagemapReader, places: Mapping[str, tuple[int, int]]) -> bytes:
    """Content of the task's [vdso], b"" when it had none or the images lack its pages; ImageError when it is damaged.

    `places`: name → (start, end) of the kernel's VMAs in the task.
    """
    image = read_dumped(pagemap, *places["[vdso]"]) if "[vdso]" in places else None
    if image is not None:
        parse_symbols(image)
    return image or b""


def read_dumped(pagemap: PagemapReader, start: int, end: int) -> bytes | None:
    """Content of [start, end); None when the images lack a page of it."""
    content = bytearray()
    for run, owner in pagemap.resolved():
        if run.end <= start or run.address >= end:
            continue
        piece = run.clipped(start, end)
        if piece.address != start + len(content) or piece.offset is None:
            return None
        content += _read_pages(owner, piece)
    return bytes(content) if len(content) == end - start else None


def _read_pages(owner: PagemapReader, piece: Run) -> bytes:
    descriptor = owner.open_pages()
    try:
        return owner.read(piece, descriptor)
    finally:
        os.close(descriptor)
