"""The directory of an earlier dump of the same tree: what it has of each process, and what was written since.

Refuses a parent that is missing, incomplete or of another process. Writes nothing but the parent link.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import Blocker, Refused, TraceeError
from core.images import kinds
from core.images.lineage import check_lineage, new_dump_id, read_boot_id, read_inventory, task_of
from core.images.page_dump import Lent, PagesSink, write_pages
from core.images.pagemap import DumpIds, PagemapReader, PagemapWriter
from core.images.parent_link import PARENT_LINK, link_anew
from core.images.pb.inventory_pb2 import DumpedTask, InventoryEntry
from core.memory.changes import compare_with, pages_of
from core.memory.dirty.kept import KeptTracker, find_tracker
from core.memory.pages import ReadPageReader
from core.memory.present import read_page_sets
from core.memory.ranges import Ranges
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.tracee.family import Member


@dataclass(slots=True)
class ParentTask:
    """A process in the images of its parent dump. `tracker`: who has tracked it since, None when nobody has."""

    pid: int
    pagemap: PagemapReader | None  # None: a page server has it
    pages: Ranges
    since: str
    tracker: KeptTracker | None
    notice: str = ""

    def ask_tracker(self) -> Ranges | None:
        """What was written since, and counted anew from now on; None when nobody knows. `tracker` None: nobody tracks.

        All threads stand still, if the tracker needs it.
        """
        reason = "nobody has tracked it since"
        if self.tracker is not None:
            try:
                told = self.tracker.collect(self.since).changed
                if told is not None:
                    return told
                reason = "it was tracked since another dump"
            except TraceeError as error:
                release_quietly(self.tracker)
                reason, self.tracker = error.reason, None
        what = "compared with the parent's one by one" if self.pagemap is not None else "sent anew, all of them"
        self.notice = f"pid {self.pid}: {reason}: its pages were {what}"
        return None

    def changed(self, present: Ranges, told: Ranges | None) -> Ranges:
        """Pages among `present` that are not as the images have them; `told` is what ask_tracker said."""
        in_both = present.intersect(self.pages)
        there = in_both.intersect(told) if told is not None else self._compared(in_both)
        return present.subtract(in_both).union(there)

    def _compared(self, pages: Ranges) -> Ranges:
        return compare_with(self.pagemap, self.pid, pages) if self.pagemap is not None else pages


@dataclass(frozen=True, slots=True)
class Written:
    """Pages of a process: `new` ones in the directory, `inherited` ones in the parent, and those that had gone."""

    new: int
    inherited: int
    missing: Ranges


def write_task(
    directory: Path, member: Member, pages_id: int, carried: Ranges, parent: "Parent", told: Ranges | None,
    lent: Lent | None,
) -> Written:  # fmt: skip
    """The pages `carried` of a process as they are now, but for those that are as its parent has them."""
    task = parent.tasks.get(member.pid)
    changed = carried if task is None else task.changed(carried, told)
    inherited = carried.subtract(changed)
    if parent.sink is not None:
        with ReadPageReader(member.pid, keep_shared=True) as reader:
            missing = parent.sink.write(member.own_pid, reader, changed, inherited)
        return Written(changed.total_pages, inherited.total_pages, missing)
    with PagemapWriter(directory, member.own_pid, pages_id=pages_id, ids=parent.ids) as writer:
        missing = write_pages(member.pid, writer, changed, inherited, lent)
    return Written(changed.total_pages, inherited.total_pages, missing)


def read_carried(pid: int, vmas: Sequence[Vma]) -> Ranges:
    """The pages of `pid` that images must have."""
    return read_page_sets(pid, vmas).carried


@dataclass(slots=True)
class Parent:
    """An earlier dump of the tree; without one (`directory` None) everything is new. `dump_id`: of the new one.

    `sink`: where the pages go, if not to the directory, and where the parent's are then.
    """

    sink: PagesSink | None = None
    directory: Path | None = None
    dump_id: str = field(default_factory=new_dump_id)
    inventory: InventoryEntry | None = None
    tasks: dict[int, ParentTask] = field(default_factory=dict)

    def read(self, members: Iterable[Member], reader: ProcReader) -> None:
        """What it has of those processes that are in it."""
        for member in members:
            if member.pid not in self.tasks and (task := self._read_task(member, reader)) is not None:
                self.tasks[member.pid] = task

    def _read_task(self, member: Member, reader: ProcReader) -> ParentTask | None:
        if self.directory is None or self.inventory is None:
            return None
        known = task_of(self.inventory, member.own_pid)
        if self.inventory.dump_id and (known is None or not self._is_same(known.start_time, member.tgid, reader)):
            return None
        tracker = find_tracker(known.tracker, member.pid) if known is not None and known.tracker else None
        if self.sink is not None:
            return ParentTask(member.pid, None, self.sink.parent_pages(member.own_pid), self.inventory.dump_id, tracker)
        if not (self.directory / kinds.PAGEMAP.file_name(member.own_pid)).exists():
            return None
        pagemap = PagemapReader(self.directory, member.own_pid)
        list(pagemap.resolved())  # every page must be somewhere, or it is no parent
        return ParentTask(member.pid, pagemap, pages_of(pagemap), self.inventory.dump_id, tracker)

    def _is_same(self, start_time: int, pid: int, reader: ProcReader) -> bool:
        assert self.inventory is not None
        return self.inventory.boot_id == read_boot_id() and reader.stat(pid).start_time == start_time

    @property
    def ids(self) -> DumpIds:
        """Of the new dump."""
        return DumpIds(self.dump_id, self.inventory.dump_id if self.inventory is not None else "")

    def sign(self, inventory: InventoryEntry, tasks: Sequence[DumpedTask]) -> None:
        """Put down which dump it is, of whom, and since which one."""
        inventory.dump_id, inventory.boot_id = self.dump_id, read_boot_id()
        inventory.tasks.extend(tasks)
        if self.ids.parent:
            inventory.parent_id = self.ids.parent

    @property
    def notices(self) -> list[str]:
        """What its user should know."""
        return [task.notice for task in self.tasks.values() if task.notice]

    @property
    def needs_stop(self) -> bool:
        """Whether a tracker can only be asked while all stand still."""
        return any(task.tracker is not None and task.tracker.needs_stop for task in self.tasks.values())

    def forget(self, pids: Iterable[int]) -> None:
        """Of these everything is new: who shares its memory may have executed a program, unseen by who tracks that."""
        for pid in set(pids) & set(self.tasks):
            if (tracker := self.tasks.pop(pid).tracker) is not None:
                release_quietly(tracker)

    def release(self) -> None:
        """Nobody needs to track any of them any more."""
        for task in self.tasks.values():
            if task.tracker is not None:
                release_quietly(task.tracker)


def release_quietly(tracker: KeptTracker) -> None:
    """A keeper that has gone is as good as released."""
    try:
        tracker.release()
    except TraceeError:
        return


def open_parent(
    directory: Path, previous: str | None, root: Member, reader: ProcReader, sink: PagesSink | None = None
) -> Parent:
    """The parent of a dump into `directory`, which gets its link; `previous` is relative to it. Refused by name."""
    if previous is None:
        (directory / PARENT_LINK).unlink(missing_ok=True)
        parent = Parent(sink)
        if sink is not None:
            sink.begin(parent.ids)
        return parent
    if os.path.isabs(previous):
        raise refusal(previous, "is an absolute path", "give it relative to the images directory: ../1")
    place = directory / previous
    if not place.is_dir():
        raise refusal(str(place), "is missing", "--prev-images-dir is relative to the images directory: ../1")
    if place.resolve() == directory.resolve():
        raise refusal(str(place), "is the directory of this dump itself", None)
    check_lineage(place)
    (directory / kinds.INVENTORY.file_name()).unlink(missing_ok=True)  # whatever it held, its pages go now
    parent = Parent(sink, place, inventory=read_inventory(place))
    if sink is not None:
        sink.begin(parent.ids)
    parent.read([root], reader)
    if root.pid not in parent.tasks:
        reason = f"does not hold this process: pid {root.own_pid} is not in it, or was another process then"
        raise refusal(str(place), reason, "name the directory of its last pre-dump, or make a dump without a parent")
    link_anew(directory, previous)
    return parent


def refusal(subject: str, reason: str, hint: str | None) -> Refused:
    """One blocker about a parent directory."""
    return Refused([Blocker("parent-images", subject, reason, hint)])
