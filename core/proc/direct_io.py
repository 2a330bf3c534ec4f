"""Who may have devices write to its memory: nobody who tracks stores hears of those (open(2), O_DIRECT)."""

import os

from core.proc.reader import ProcReader


def uses_direct_io(pid: int, reader: ProcReader) -> bool:
    """Whether it has a file open past the page cache. OSError when it has ended."""
    fds = reader.fds(pid)
    infos = reader.contents([(pid, f"fdinfo/{fd}") for fd in fds])
    direct = [fd for fd, info in zip(fds, infos, strict=True) if isinstance(info, bytes) and _flags(info) & os.O_DIRECT]
    links = reader.links([(pid, f"fd/{fd}") for fd in direct])
    return any(isinstance(link, bytes) and link.startswith(b"/") for link in links)  # pipes mean packets by it


def _flags(info: bytes) -> int:
    start = info.index(b"flags:") + 6
    return int(info[start : info.index(b"\n", start)], 8)
