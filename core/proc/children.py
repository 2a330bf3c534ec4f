"""The children of many processes, read in one go."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

from core.proc.reader import ProcReader, content_of
from core.proc.stat import parse_stat

MANY_THREADS: Final = 100


def children_of(threads: Mapping[int, int], reader: ProcReader) -> tuple[dict[int, list[int]], bool]:
    """ProcReader.children() of several, and whether a thread of them went meanwhile; without who is gone.

    `threads`: how many each of them has. Where that is more than there are processes, those are asked instead.
    """
    try:
        everybody = reader.pids() if max(threads.values(), default=0) > MANY_THREADS else []
        few = {pid for pid, count in threads.items() if not everybody or count <= len(everybody)}
        found, someone_went = _listed(few, threads, reader)
    except FileNotFoundError:
        everybody, few, found, someone_went = reader.pids(), set(), {}, False
    if len(few) < len(threads):
        parents = _parents(everybody, reader)
        for pid in threads.keys() - few:
            found[pid] = sorted(child for child, parent in parents.items() if parent == pid)
    return found, someone_went


def _listed(pids: set[int], threads: Mapping[int, int], reader: ProcReader) -> tuple[dict[int, list[int]], bool]:
    found: dict[int, list[int]] = {}
    names = []
    for pid in pids:
        try:
            names += [(pid, f"task/{tid}/children") for tid in ([pid] if threads[pid] == 1 else reader.tids(pid))]
        except ProcessLookupError:
            continue
    someone_went = False
    for (pid, _), content in zip(names, reader.contents(names), strict=True):
        if isinstance(content, ProcessLookupError):
            someone_went = True
            continue
        found.setdefault(pid, []).extend(map(int, content_of(content).split()))
    return {pid: sorted(children) for pid, children in found.items()}, someone_went


def _parents(pids: Sequence[int], reader: ProcReader) -> dict[int, int]:
    found = reader.contents([(pid, "stat") for pid in pids])
    return {
        pid: parse_stat(os.fsdecode(one)).ppid for pid, one in zip(pids, found, strict=True) if isinstance(one, bytes)
    }
