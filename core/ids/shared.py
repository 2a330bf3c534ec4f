"""Which task shares what: one number per open file, descriptor table, memory, fs and signal handler set.

Asks kcmp(2) through the function it is given; must not look at anything else of a task.
"""

import errno
import os
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Protocol

from core.ids.tree import KcmpTree, count_from
from core.kernel.calls import find_shared, kcmp

KCMP_FILE: Final = 0
KCMP_VM: Final = 1
KCMP_FILES: Final = 2
KCMP_FS: Final = 3
KCMP_SIGHAND: Final = 4
MANY: Final = 8  # descriptors that look alike: fewer are compared one by one


class Kcmp(Protocol):
    """kcmp(2), or what a test puts in its place."""

    def __call__(self, pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
        """An `Order`."""


def _task_comparison(ask: Kcmp, kind: int) -> Callable[[int, int], int]:
    return lambda pid1, pid2: ask(pid1, pid2, kind)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class SharedIds:
    """The numbers of one dump: each tree counts from 1; files that are only mapped draw from the open ones' numbers."""

    def __init__(self, ask: Kcmp = kcmp) -> None:
        self.next_file_id = count_from(1)
        self._file: KcmpTree[tuple[int, int]] = KcmpTree(
            lambda one, other: ask(one[0], other[0], KCMP_FILE, one[1], other[1]), self.next_file_id
        )
        self._vm = KcmpTree(_task_comparison(ask, KCMP_VM), count_from(1))
        self._files = KcmpTree(_task_comparison(ask, KCMP_FILES), count_from(1))
        self._fs = KcmpTree(_task_comparison(ask, KCMP_FS), count_from(1))
        self._sighand = KcmpTree(_task_comparison(ask, KCMP_SIGHAND), count_from(1))
        self._held: list[int] = []
        self._same: dict[int, dict[int, int]] = {}  # by kind: pid → the first of those that share
        self._same_files: dict[tuple[int, int], tuple[int, int]] = {}  # the first of those that are one open file
        weakref.finalize(self, _close_all, self._held)

    def compare(self, pids: Sequence[int]) -> None:
        """Learn at once what these tasks share, which is asked for one by one later."""
        for kind in (KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND):
            try:
                places, _ = find_shared(pids, kind)
                self._same[kind] = {pid: pids[place] for pid, place in zip(pids, places, strict=True)}
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                return

    def compare_files(self, references: Iterable[tuple[int, int, Hashable]]) -> None:
        """Learn at once which of these descriptors (`pid`, `fd`, `key` as in file()) are of one open file."""
        groups: dict[Hashable, list[tuple[int, int]]] = {}
        for pid, fd, key in references:
            groups.setdefault(key, []).append((pid, fd))
        for group in groups.values():
            if len(group) < MANY:
                continue
            try:
                places, _ = find_shared([pid for pid, _ in group], KCMP_FILE, [fd for _, fd in group])
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                return
            self._same_files.update((one, group[place]) for one, place in zip(group, places, strict=True))

    def _task(self, kind: int, tree: KcmpTree[int], pid: int) -> tuple[int, bool]:
        """Number of an object of a task: who shares it with one before has its number."""
        first = self._same.get(kind, {}).get(pid)
        return tree.insert(pid) if first is None else tree.insert(first, key=first)

    def hold(self, fds: Iterable[int]) -> None:
        """Descriptors of ours that stand for files which no task has open (in flight); closed with this object."""
        self._held.extend(fds)

    def file(self, pid: int, fd: int, key: Hashable = None) -> tuple[int, bool]:
        """Number of the open file behind descriptor `fd` of `pid`; True when new. `key`: what equal files agree in."""
        first = self._same_files.get((pid, fd))
        return self._file.insert((pid, fd), key) if first is None else self._file.insert(first, key=first)

    def vm(self, pid: int) -> tuple[int, bool]:
        """Number of the memory of task `pid`; True when new. The others below are alike."""
        return self._task(KCMP_VM, self._vm, pid)

    def files(self, pid: int) -> tuple[int, bool]:
        """The descriptor table."""
        return self._task(KCMP_FILES, self._files, pid)

    def fs(self, pid: int) -> tuple[int, bool]:
        """Root, working directory and umask."""
        return self._task(KCMP_FS, self._fs, pid)

    def sighand(self, pid: int) -> tuple[int, bool]:
        """The signal handlers."""
        return self._task(KCMP_SIGHAND, self._sighand, pid)
