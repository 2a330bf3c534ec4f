"""Which task shares what: one number per open file, descriptor table, memory, fs and signal handler set.

Asks kcmp(2) through the function it is given; must not look at anything else of a task.
"""

import os
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Protocol

from core.ids.tree import KcmpTree, count_from
from core.kernel.calls import kcmp

KCMP_FILE: Final = 0
KCMP_VM: Final = 1
KCMP_FILES: Final = 2
KCMP_FS: Final = 3
KCMP_SIGHAND: Final = 4


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
        weakref.finalize(self, _close_all, self._held)

    def hold(self, fds: Iterable[int]) -> None:
        """Descriptors of ours that stand for files which no task has open (in flight); closed with this object."""
        self._held.extend(fds)

    def file(self, pid: int, fd: int, key: Hashable = None) -> tuple[int, bool]:
        """Number of the open file behind descriptor `fd` of `pid`; True when new. `key`: what equal files agree in."""
        return self._file.insert((pid, fd), key)

    def vm(self, pid: int) -> tuple[int, bool]:
        """Number of the memory of task `pid`; True when new. The others below are alike."""
        return self._vm.insert(pid)

    def files(self, pid: int) -> tuple[int, bool]:
        """The descriptor table."""
        return self._files.insert(pid)

    def fs(self, pid: int) -> tuple[int, bool]:
        """Root, working directory and umask."""
        return self._fs.insert(pid)

    def sighand(self, pid: int) -> tuple[int, bool]:
        """The signal handlers."""
        return self._sighand.insert(pid)
