"""The [vdso] that a task was dumped with, out of its pages, against this kernel's. Starts nothing."""

import os
from collections.abc import Mapping

from core.images.pagemap import PagemapReader, Run
from core.proc.reader import ProcReader
from core.vdso.layout import check_vdso, make_layout, read_vdso_layout


def check_dumped_vdso(
    pagemap: PagemapReader, places: Mapping[str, tuple[int, int]], reader: ProcReader | None = None
) -> None:
    """RestoreError when the task's vDSO is not ours. `places`: name → (start, end) of the kernel's VMAs in the task.

    Images without the pages of [vdso] tell only its size, which is compared when it is moved into place.
    """
    if "[vdso]" not in places:
        return
    image = read_dumped(pagemap, *places["[vdso]"])
    if image is not None:
        check_vdso(make_layout(places, image), read_vdso_layout(reader))


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
