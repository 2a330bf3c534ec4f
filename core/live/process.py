"""One process of a live source: borrowed and tracked while it runs, its threads stopped once. Owns no policy."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from core.collect import Subject
from core.collect_memory import Space, meet, memory_image
from core.errors import CollectError, MigrateError, TraceeError
from core.ids.tree import count_from
from core.images import kinds
from core.images.pb.memory_pb2 import VmaEntry
from core.images.store import ImageSet
from core.kernel import ptrace
from core.kernel.threads import ThreadState
from core.live.mappers import NOTHING
from core.memory.dirty import DirtyTracker, SharedWrites
from core.memory.dirty.choose import choose_tracker
from core.memory.dirty.kept import find_any_tracker
from core.memory.pages import ReadPageReader
from core.memory.present import KERNEL_VMAS, PageSets
from core.memory.ranges import EMPTY, EVERYTHING, Ranges
from core.memory_plan import memory_plan
from core.options import DumpOptions
from core.prepare import Prepared, read_flags
from core.proc.direct_io import uses_direct_io
from core.proc.main_thread import main_thread
from core.proc.maps import Vma, parse_maps
from core.proc.reader import ProcReader
from core.proc.statuses import Statuses
from core.resources import aio
from core.resources.ghost_file import Ghosts
from core.resources.named_files import NamedFiles
from core.resources.shared_memory import Segments
from core.resources.vmas import compare
from core.subjects import threads_of
from core.tracee.borrow import Borrow
from core.tracee.family import Member, has_ended
from core.tracee.freezer import FrozenProcess, stop_thread
from core.tracee.lender import Lender, find_lender, frame_place
from core.tracee.uffd_loan import open_uffd
from core.vdso.mark import unproxied

SHARED_FLAGS = frozenset({"sh", "mw"})


@dataclass(slots=True)
class LiveProcess:
    """One process under migration. `close` gives everything back, whatever state it is in."""

    prepared: Prepared
    options: DumpOptions
    reader: ProcReader
    ghosts: Ghosts
    segments: Segments
    frozen: FrozenProcess | None = None
    stopped_s: float = 0.0
    compared_s: float = 0.0  # what comparing all its memory took at the last look
    memory: ImageSet = field(default_factory=ImageSet)  # address space at the last look
    pending: Ranges = EMPTY  # pages to be sent
    sent: Ranges = EMPTY  # pages that the destination has
    last: PageSets | None = None  # all pages there are, as of the last look
    kept: Ranges = EMPTY  # those of them that it is born with, in the round that comes
    has_rings: bool = False  # of asynchronous I/O
    has_direct: bool = False  # files open past the page cache, now or before
    has_relatives: bool = False  # which may share pages with it
    sharers: Sequence[Prepared] = ()  # processes that have the same memory: it outlives its holder then
    current: tuple[Vma, ...] = ()
    shared: SharedWrites = NOTHING  # by `shared_vmas`, since the look before
    maps: bytes = b""  # that `current` and what is below was made from
    _entries: Sequence[VmaEntry] = ()
    _to_meet: tuple[Vma, ...] = ()  # those of `current` that may be other than they were while `_maps` is the same
    _has_paths: bool = False  # all that is mapped from files
    _made_from: tuple[object, ...] = ()  # what `memory` was made from: maps, and what those were
    _vdso: bytes = b""  # content of its [vdso]
    _lender: Lender | None = None
    _borrow: Borrow | None = None
    _tracker: DirtyTracker | None = None
    _page_reader: ReadPageReader | None = None
    _is_quiet: bool = False  # nothing was in flight at the last look
    _looked_at: FrozenProcess | None = None  # who has `current` mapped still, and our area, if it is `frozen`
    _has_left: bool = False  # the memory that was attached to, which others have

    @property
    def pid(self) -> int:
        """The thread through which we see the process."""
        return self.prepared.pid

    @property
    def own_pid(self) -> int:
        """The process as it sees itself."""
        return self.prepared.own_pid

    @property
    def is_over(self) -> bool:
        """True when it has ended, or executed another program than the one that was attached to."""
        return self.prepared.is_over or self._has_left or (bool(self.sharers) and not self._is_in_area(self.pid))

    def _is_in_area(self, pid: int) -> bool:
        """Whether `pid` has the memory in which our area is."""
        try:
            return self._borrow is not None and self._borrow.area.is_in(pid, self.reader)
        except (ProcessLookupError, FileNotFoundError):
            return False

    @property
    def has_looked(self) -> bool:
        """True when `memory` holds an address space."""
        return self.memory.has(kinds.MM, self.own_pid)

    def attach(self, same: Sequence[FrozenProcess] = ()) -> None:
        """Borrow an area and start tracking. One thread stands still for `stopped_s`, or all when all are frozen.

        `same`: others of the same memory, who stand still.
        """
        if self.frozen is not None:
            self._take_hold(self.frozen.leader, threads_of([self.frozen, *same]))
            return
        started = time.monotonic()
        thread = stop_thread(self.pid, self.pid, self.reader)
        try:
            self._take_hold(thread, [thread])
        finally:
            ptrace.detach([thread.tid])
            self.stopped_s += time.monotonic() - started

    def succeed(self, earlier: "LiveProcess") -> None:
        """It is what `earlier` was before it executed this program: the destination still has pages of that."""
        self.sent, self.stopped_s = earlier.sent, earlier.stopped_s
        earlier.close()

    def _take_hold(self, thread: ThreadState, stopped: Sequence[ThreadState]) -> None:
        maps = self.reader.maps(self.pid)
        self.has_rings = bool(aio.rings(maps))
        self._lender = find_lender(
            self.prepared.memory, maps, stopped, self.reader.status(self.pid),
            own_ids={thread.tid: self.prepared.own_tid}, gadgets=self.prepared.gadgets,
        )  # fmt: skip
        self._borrow = self._lender.map_area(thread)
        if (kept := find_any_tracker(self.pid)) is not None:  # of a pre-dump: a move needs one of its own
            kept.release()
        self._tracker = choose_tracker(
            self.pid,
            lambda: open_uffd(self._need_borrow(), thread, self.prepared.pidfd),
            kind=self.options.track,
            exclude=self._area(),
        )

    def _need_borrow(self) -> Borrow:
        if self._borrow is None:
            raise TraceeError(self.pid, "is not attached")
        return self._borrow

    def need_tracker(self) -> DirtyTracker:
        """Whoever tracks it. TraceeError."""
        if self._tracker is None:
            raise TraceeError(self.pid, "is not attached")
        return self._tracker

    def _area(self) -> Ranges:
        area = self._need_borrow().area
        return Ranges.of([(area.address, area.end)])

    @property
    def tracker_name(self) -> str:
        """Which dirty tracker is at work."""
        return type(self.need_tracker()).__name__

    @property
    def needs_stop(self) -> bool:
        """Whether its threads must stand still for look(): nobody tracks what direct I/O in flight will write."""
        return self.need_tracker().needs_stop or self._hears_of_no_device

    @property
    def _hears_of_no_device(self) -> bool:
        return self.has_rings or self.has_direct

    def note_direct(self) -> None:
        """Before it is asked whether it needs a stop. OSError when it has ended."""
        pids = (self.pid, *(one.pid for one in self.sharers))
        self.has_direct = self.has_direct or any(uses_direct_io(pid, self.reader) for pid in pids)

    def _own_vmas(self, maps: bytes) -> tuple[Vma, ...]:
        """The process's VMAs without our area."""
        area = self._area()
        everything = parse_maps(maps.decode("utf-8", "surrogateescape"), self.reader.path(self.pid, "maps"))
        if not self._need_borrow().area.is_mapped(everything):
            self._has_left = True
            raise TraceeError(self.pid, "has executed another program since it was attached to", hint="try again")
        current = tuple(vma for vma in everything if not area.overlaps(vma.start, vma.end))
        if any(vma.start not in self.prepared.vma_flags for vma in current):
            self.read_flags()
        return unproxied(current, self.prepared.memory.read)

    def read_flags(self) -> None:
        """What smaps tells of its VMAs; it goes through all pages, so only where it must while threads are stopped."""
        known = self._flags()
        read_flags(self.prepared, self.reader, tracked=True)
        if known != self._flags():
            self._entries = ()

    def _flags(self) -> list[frozenset[str] | None]:
        return [self.prepared.vma_flags.get(vma.start) for vma in self.current]

    def look(self, maps: bytes, *, last: bool = False) -> None:
        """Which pages are dirty now (`pending`), and its address space as in `maps`; tracking begins anew unless it is
        the last."""
        changed, self.shared = maps != self.maps, NOTHING
        if changed:
            self.current, self.maps, self._entries = self._own_vmas(maps), maps, ()
            self._to_meet = tuple(vma for vma in self.current if vma.shared or vma.is_deleted)
            self.has_rings = bool(aio.rings(self.current))
            self._vdso = self._read_vdso()
        made_from = (maps, *self._meet())  # before the image, as it may run: the image is never older
        self._has_paths = made_from[1:] == (None,) * len(self._to_meet)
        is_new = not self._entries or made_from != self._made_from
        memory, tracker = self._memory_image() if is_new else self.memory, self.need_tracker()
        if tracker.by_content and self.has_looked:
            before, after = (memory_plan(images, self.own_pid).mapped for images in (self.memory, memory))
            tracker.forget(Ranges.of((vma.start, vma.end) for vma in compare(before, after).create))
        self.shared = tracker.collect_shared(self.shared_vmas, last=last)
        found = tracker.collect_last(self.current) if last else None
        dirty, self.last = (found.dirty, found.present) if found else (tracker.collect_and_rearm(self.current), None)
        self.compared_s = dirty.seconds if tracker.by_content else 0.0
        self.pending, self.memory, self._made_from = dirty.ranges, memory, made_from
        self._looked_at = self.frozen
        if self.frozen is None or not self._hears_of_no_device:
            self._is_quiet = False
        elif not self._is_quiet:
            self._is_quiet = True
            self.pending = self.present()
            self.shared = replace(self.shared, unknown=Ranges.of((one.start, one.end) for one in self.shared_vmas))

    @property
    def space(self) -> Space:
        """Its memory at the last look."""
        return Space(self.pid, self.current, self._entries)

    @property
    def may_share(self) -> bool:
        """Whether it maps anything shared that it may write to."""
        return any(flags >= SHARED_FLAGS for flags in self.prepared.vma_flags.values())

    @property
    def shared_vmas(self) -> list[Vma]:
        """Those at the last look that map memory of `segments`, or such files of `ghosts`, as shared."""
        return [vma for vma in self.current if vma.shared and (self.segments.has(vma) or self.ghosts.trackable(vma))]

    def _meet(self) -> tuple[object, ...]:
        """Shared memory and files without a name, which have to be met at every look: what there is of them."""
        if not self._to_meet:
            return ()
        images = ImageSet()
        named = NamedFiles(images, f"/proc/{self.pid}/root", count_from(1))
        uses = meet(self.pid, self._to_meet, self.prepared.vma_flags, named, self.ghosts, self.segments)
        return (*uses, *(record.message.SerializeToString() for _, _, records in images for record in records))

    def _memory_image(self) -> ImageSet:
        """VMAs and the files they map: what a skeleton is made from."""
        known = (self._vdso, self.prepared.vma_flags, self.ghosts, self.segments)
        images, self._entries = memory_image(self.space, self.own_pid, *known)
        return images

    def _read_vdso(self) -> bytes:
        found = (vma for vma in self.current if vma.name == "[vdso]")
        return next((self.prepared.memory.read(vma.start, vma.size) for vma in found), b"")

    def forget_sent(self) -> None:
        """The destination has none of our pages: everything there is must be sent, and nothing once it has left."""
        self.sent = EMPTY
        self.need_tracker().forget(EVERYTHING)
        there = self.there()
        self.pending = self.pending.union(there) if there else EMPTY

    @property
    def compares(self) -> bool:
        """Whether its tracker compares with what was read of it and sent, which common pages are not."""
        return self.need_tracker().by_content

    @property
    def kernel_vmas(self) -> tuple[Vma, ...]:
        """[vdso] and its like at the last look: others after it executed a program."""
        return tuple(vma for vma in self.current if vma.path in KERNEL_VMAS)

    def begin_anew(self, kept: Ranges) -> None:
        """It will be born with `kept`; everything else there is must be sent."""
        there = self.there()
        self.kept = self.sent = kept.intersect(there)
        self.pending = there.subtract(kept)

    def there(self) -> Ranges:
        """All pages that it has now; none once it has ended."""
        try:
            return self.present()
        except (MigrateError, OSError):
            if self.frozen or not (self.is_over or has_ended(self.pid, self.reader)):
                raise
            return EMPTY

    def present(self) -> Ranges:
        """All pages that it has now."""
        return self.last.carried if self.last is not None else self.need_tracker().present(self.current)

    def page_reader(self, buffers: int) -> ReadPageReader:
        """Reads its pages; those that it shares with relatives stay shared."""
        if self._page_reader is not None and self._page_reader.keep_shared is not self.has_relatives:
            self._page_reader.close()
            self._page_reader = None
        if self._page_reader is None:
            seen = self.need_tracker().note_read
            self._page_reader = ReadPageReader(self.pid, buffers=buffers, seen=seen, keep_shared=self.has_relatives)
        return self._page_reader

    def was_sent(self, missing: Ranges) -> None:
        """What was pending is over there, but for `missing`, which could not be read: while it runs they come again."""
        if missing and self.frozen is not None:
            raise CollectError(f"pid {self.pid}: pages {missing}", "cannot be read")
        if missing:
            self.need_tracker().keep_pending(missing)
        self.sent = self.sent.union(self.pending)
        self.pending = self.kept = EMPTY

    def subject(self, member: Member, statuses: Statuses) -> Subject:
        """What is collected of it; it is frozen. `member`: as it was found then; `statuses`: by thread."""
        if self.frozen is None:
            raise TraceeError(self.pid, "is not frozen")
        borrowed = self._need_borrow()
        for tid, own_tid in statuses.own_tids.items():
            borrowed.add_task(tid, own_tid)
        return Subject(
            self.frozen, borrowed, self.current, self.prepared.vma_flags, self.reader, self.prepared.pidfd,
            self.prepared.tgid, self.own_pid, statuses, member.parent, self._entries,
            self.last.guard if self.last else EMPTY, member.stat if self.pid == member.tgid else None, self._has_paths,
        )  # fmt: skip

    def let_run(self) -> None:
        """Detach from every thread."""
        frozen, self.frozen = self.frozen, None
        if frozen is not None:
            ptrace.detach(frozen.tids)

    def let_go(self) -> None:
        """Take our area away and let it run. Idempotent; no error when it has ended."""
        try:
            with self._unless_ended(self.pid):
                self._unmap_area()
        finally:
            self.let_run()

    def abandon(self, frozen: Mapping[int, FrozenProcess]) -> None:
        """It has ended, or executed another program, and its memory stays with others (`frozen`: who stands still):
        end the tracking and take our area away through one of them. Idempotent."""
        self._has_left = True
        self.close()
        for one in self.sharers:
            if self._is_in_area(one.pid):
                with self._unless_ended(one.pid):
                    self._unmap(one.tgid, frozen.get(one.pid))
        self.sharers = ()

    @contextmanager
    def _unless_ended(self, pid: int) -> Iterator[None]:
        try:
            yield
        except (ProcessLookupError, TraceeError):
            if not has_ended(pid, self.reader):
                raise

    def _unmap_area(self) -> None:
        if self.sharers and not self._is_in_area(self.pid):
            self.abandon({})
        if self.reader.exists(self.prepared.tgid):
            self._unmap(self.prepared.tgid, self.frozen)
            self._borrow = None  # it is gone, or went with the program that was

    def _unmap(self, tgid: int, frozen: FrozenProcess | None) -> None:
        """Take our area away through a process, if it is there."""
        if self._borrow is None or self._lender is None:
            return
        tid = frozen.pid if frozen else main_thread(tgid, self.reader)  # the one that we knew may have ended
        thread = frozen.leader if frozen else stop_thread(tid, tid, self.reader)
        try:
            # Else it has executed another program. Its stack has grown since, and others may use it who run.
            if (is_known := frozen and self._looked_at is frozen) or self._is_in_area(tid):
                vmas = self.current if is_known else self.reader.maps_named(tid, "[stack]")
                stack = 0 if self.sharers else frame_place(vmas, [thread])
                replace(self._lender, stack=stack).unmap_area(thread, self._borrow.area)
                self._borrow = None
        finally:
            if frozen is None:
                ptrace.detach([tid])

    def close(self) -> None:
        """Let go of what is ours alone: tracker and descriptors."""
        ours, self._tracker, self._page_reader = (self._page_reader, self._tracker), None, None
        with ExitStack() as stack:
            for one in ours:
                if one is not None:
                    stack.callback(one.close)
