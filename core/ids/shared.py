"""Which task shares what: one number per open file, descriptor table, memory, fs and signal handler set.

Asks kcmp(2) through the function it is given; must not look at anything else of a task.
"""

import errno
import os
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from core.ids.orders import TaskOrders
from core.ids.tree import KcmpTree, count_from
from core.kernel.calls import find_shared, kcmp

KCMP_FILE: Final = 0
KCMP_VM: Final = 1
KCMP_FILES: Final = 2
KCMP_FS: Final = 3
KCMP_SIGHAND: Final = 4
LAST: Final = 1 << 62
Descriptor: TypeAlias = tuple[int, int]  # pid, fd
FileReference: TypeAlias = tuple[Descriptor, Hashable]  # and what equal files agree in


class Kcmp(Protocol):
    """kcmp(2), or what a test puts in its place."""

    def __call__(self, pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
        """An `Order`."""


def _task_comparison(ask: Kcmp, kind: int) -> Callable[[int, int], int]:
    return lambda pid1, pid2: ask(pid1, pid2, kind)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


@dataclass(slots=True)
class Alike:
    """Those of `references` that look alike, group after group, and who they are: `places` among all."""

    references: list[FileReference] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def in_order(self, order: Sequence[int]) -> "Alike":
        """The same, as the kernel orders them: it is asked least about those."""
        parts = ([part[index] for index in order] for part in (self.places, self.pids, self.fds, self.groups))
        return Alike(self.references, *parts)


@dataclass(slots=True)
class KnownFiles:
    """What was found of descriptors before: their numbers, and the kernel's order of those that look alike. Never
    believed: it makes asking again cheaper, and numbers stay."""

    next_id: Callable[[], int] = field(default_factory=lambda: count_from(1))
    numbers: dict[Descriptor, int] = field(default_factory=dict)
    ranks: dict[Descriptor, int] = field(default_factory=dict)
    alike: Alike = field(default_factory=Alike)
    answer: list[int] = field(default_factory=list)  # of the kernel, about these
    found: list[tuple[int, bool]] = field(default_factory=list)  # what it comes to


def _find_alike(references: Sequence[FileReference], ranks: Mapping[Descriptor, int]) -> Alike:
    """`ranks`: the order of those that look alike as it was last found, which makes for few comparisons."""
    keys = [key for _, key in references]
    counts = Counter(keys)
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        if counts[key] > 1:
            groups.setdefault(key, []).append(place)
    for group in groups.values():
        group.sort(key=lambda place: ranks.get(references[place][0], LAST))
    places = [place for group in groups.values() for place in group]
    asked = [references[place][0] for place in places]
    parts = [number for number, group in enumerate(groups.values()) for _ in group]
    return Alike(list(references), places, [pid for pid, _ in asked], [fd for _, fd in asked], parts)


class SharedIds:
    """The numbers of one dump: each tree counts from 1; files that are only mapped draw from the open ones' numbers."""

    def __init__(self, ask: Kcmp = kcmp, next_file_id: Callable[[], int] | None = None) -> None:
        self.next_file_id = next_file_id or count_from(1)
        self._file: KcmpTree[tuple[int, int]] = KcmpTree(
            lambda one, other: ask(one[0], other[0], KCMP_FILE, one[1], other[1]), self.next_file_id
        )
        self._vm = KcmpTree(_task_comparison(ask, KCMP_VM), count_from(1))
        self._files = KcmpTree(_task_comparison(ask, KCMP_FILES), count_from(1))
        self._fs = KcmpTree(_task_comparison(ask, KCMP_FS), count_from(1))
        self._sighand = KcmpTree(_task_comparison(ask, KCMP_SIGHAND), count_from(1))
        self._held: list[int] = []
        self._same: dict[int, dict[int, int]] = {}  # by kind: pid → the first of those that share
        weakref.finalize(self, _close_all, self._held)

    def compare(self, pids: Sequence[int], orders: TaskOrders | None = None) -> None:
        """Learn at once what these tasks share besides memory, which is asked for one by one later."""
        orders = orders or TaskOrders()
        for kind in (KCMP_FILES, KCMP_FS, KCMP_SIGHAND):
            try:
                places = orders.find_shared(pids, kind)
                self._same[kind] = {pid: pids[place] for pid, place in zip(pids, places, strict=True)}
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                return

    def number_files(self, references: Sequence[FileReference], known: KnownFiles) -> list[tuple[int, bool]]:
        """file() of many at once; who is of an open file that had a number before keeps it. `known` learns these."""
        if known.alike.references != references:
            known.alike, known.answer, known.found = _find_alike(references, known.ranks), [], []
        alike = known.alike
        try:
            shared = find_shared(alike.pids, KCMP_FILE, alike.fds, alike.groups)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return [self._file.insert(reference, key) for reference, key in references]
        if not known.found or shared.places != known.answer:
            known.found = self._number(alike, shared.places, known.numbers)
            known.numbers = {one: id for (one, _), (id, _) in zip(references, known.found, strict=True)}
            known.alike = alike.in_order(shared.order)
            known.ranks = {references[place][0]: rank for rank, place in enumerate(known.alike.places)}
            firsts: dict[int, int] = {}
            known.answer = [firsts.setdefault(shared.places[index], rank) for rank, index in enumerate(shared.order)]
        return known.found

    def _number(self, alike: Alike, shared: Sequence[int], before: Mapping[Descriptor, int]) -> list[tuple[int, bool]]:
        """Each one's number, and whether it is the first that has it. `shared`: by whom among those that look alike."""
        firsts: dict[int, int] = {}
        pairs = sorted(zip(alike.places, shared, strict=True))
        others = {place: first for place, index in pairs if (first := firsts.setdefault(index, place)) != place}
        taken: set[int] = set()
        found: list[tuple[int, bool]] = []
        for place, (descriptor, _) in enumerate(alike.references):
            if place in others:
                found.append((found[others[place]][0], False))
                continue
            id = before.get(descriptor)
            if id is None or id in taken:
                id = self.next_file_id()
            taken.add(id)
            found.append((id, True))
        return found

    def _task(self, kind: int, tree: KcmpTree[int], pid: int) -> tuple[int, bool]:
        """Number of an object of a task: who shares it with one before has its number."""
        first = self._same.get(kind, {}).get(pid)
        return tree.insert(pid) if first is None else tree.insert(first, key=first)

    def hold(self, fds: Iterable[int]) -> None:
        """Descriptors of ours that stand for files which no task has open (in flight); closed with this object."""
        self._held.extend(fds)

    def file(self, pid: int, fd: int, key: Hashable = None) -> tuple[int, bool]:
        """Number of the open file behind descriptor `fd` of `pid`; True when new. `key`: what equal files agree in."""
        return self._file.insert((pid, fd), key)

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
