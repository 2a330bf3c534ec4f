"""The live source: a running tree, tracked while it runs, frozen once, then handed over or let go unharmed.

Speaks no protocol and journals nothing: that is migrate/keeper's.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from core.action_scripts import Action, Network
from core.collect import collect_tree
from core.errors import MigrateError, NotBorrowable, TraceeError
from core.foreseen import Foreseen
from core.images.pb.tty_pb2 import TtyInfoEntry
from core.images.store import ImageSet
from core.kernel.ipc_namespace import in_ipc_namespace_of
from core.live.ending import end_all, give_back_all
from core.live.ghosts import LiveGhosts
from core.live.looks import distrust, look_at_all, prepare_looks
from core.live.mappers import Mapper, Mappers
from core.live.mould import Casting
from core.live.network_files import FileHolder, NetworkFiles
from core.live.process import LiveProcess
from core.live.shared import SharedPages
from core.live.shared_file import SharedFile
from core.live.sharers import Sharer, Sharers
from core.live.terminals import find_controlling, stand_in_for_outside
from core.live.told import Froze, Scanned, compared_s, shape_of
from core.live.tree_images import tree_images
from core.memory.ranges import Ranges
from core.options import DumpOptions
from core.prepare import (
    STARTING_POLL_S,
    Prepared,
    Stopwatch,
    prepare,
    read_statuses,
    stop_met,
    without_collector,
    zombies_of,
)
from core.proc.reader import ProcReader, content_of
from core.resources import posix_mqueue, sysv_ipc
from core.tracee.family import Family, has_ended, read_family, read_settled, refuse_strays, release, without
from core.tracee.freezer import FrozenProcess, freeze
from core.tracee.holder import Holder, hold_processes
from core.tracee.remote_writers import RemoteWriters

ATTEMPTS = 8  # to meet one that executes programs all the time


@dataclass(slots=True)
class LiveSource:
    """A tree under migration, by the pid of its root. Every way out of it is thaw() or kill(), and then close()."""

    pid: int
    name: str  # of our leaf cgroup
    options: DumpOptions
    reader: ProcReader = field(default_factory=ProcReader)
    holder: Holder | None = None
    shared: SharedPages = field(default_factory=SharedPages)
    processes: dict[int, LiveProcess] = field(default_factory=dict)  # by our pid, parents before children
    sharers: Sharers = field(init=False)  # of the memory of one of these
    ghosts: LiveGhosts = field(init=False)
    _mappers: Mappers = field(default_factory=Mappers)
    _stack: ExitStack = field(default_factory=ExitStack)
    _family: Family = field(default_factory=Family)
    _held: bool = False
    _casting: Casting = field(default_factory=Casting)
    _foreseen: Foreseen = field(default_factory=Foreseen)
    _terminals: list[TtyInfoEntry] = field(default_factory=list)  # that sessions of the tree are led from
    _images: ImageSet = field(default_factory=ImageSet)  # of the freeze
    _writers: RemoteWriters = field(default_factory=RemoteWriters)
    _network: Network = field(init=False)
    _network_files: NetworkFiles = field(init=False)

    def __post_init__(self) -> None:
        self.ghosts = LiveGhosts(self.options.files.carried)
        self._network, self._network_files = Network(self.options.scripts, self.pid), NetworkFiles(self.reader)
        self.sharers = Sharers(self.reader, self._foreseen.orders)

    @property
    def everybody(self) -> dict[int, LiveProcess | Sharer]:
        """All that live, parents before children."""
        met: dict[int, LiveProcess | Sharer] = {**self.processes, **self.sharers.known}
        return {member.pid: met[member.pid] for member in self._family.living if member.pid in met}

    @property
    def stopped_s(self) -> float:
        """For how long one of them stood still while it was attached, all added up."""
        return sum(process.stopped_s for process in self.processes.values())

    @property
    def files(self) -> list[SharedFile]:
        """What the tree shares memory through, and its deleted files: their pages go over beside those of processes."""
        return [*self.ghosts, *self.shared]

    @property
    def notices(self) -> list[str]:
        """What its user should know."""
        return [*filter(None, [self.holder.notice if self.holder is not None else "", self._writers.notice])]

    def attach(self) -> None:
        """Move the tree into a cgroup of its own, borrow from and track every process of it."""
        self.options.scripts.run(Action.PRE_DUMP, self.pid)
        self.shared.segments.own_ipc = self._stack.enter_context(in_ipc_namespace_of(self.pid))
        self.holder = hold_processes(lambda: self._pids(), self.name, self.options.hold)
        self._meet(read_settled(self.pid, self.reader, ()), {})
        if not all(process.compares for process in self.processes.values()):
            self._writers.open()

    def _pids(self) -> list[int]:
        return [member.tgid for member in read_family(self.pid, self.reader).living]

    def _meet(self, family: Family, frozen: dict[int, FrozenProcess]) -> None:
        """Who is new is attached, who has gone is forgotten; `frozen`: those that stand still already."""
        try:
            self._meet_each(family, frozen)
        except BaseException:
            self._let_go()  # whoever stopped them lets them run
            raise

    def _let_go(self) -> None:
        for process in (*self.processes.values(), *self.sharers):
            process.frozen = None

    def _meet_each(self, family: Family, frozen: dict[int, FrozenProcess]) -> None:
        family.refuse_other_threads({one.prepared.tgid: pid for pid, one in self.everybody.items()})
        self._family = family
        self.sharers.find(family, self.processes, frozen)
        pids = [member.pid for member in family.living if member.pid not in self.sharers.pids]
        gone = {pid for pid in pids if not self._know(pid, frozen)}
        living = {pid: process for pid, process in self.processes.items() if pid not in gone}
        gone |= self.sharers.meet(self._stack, living, frozen)
        self._settle(family, gone)

    def _settle(self, family: Family, gone: set[int]) -> None:
        """It is `family` without `gone`: all others are given back."""
        self._family = without(family, gone)
        living = dict.fromkeys(member.pid for member in self._family.living)
        give_back_all([self.processes.pop(pid) for pid in self.processes.keys() - living.keys()])
        self.processes = {pid: self.processes[pid] for pid in living if pid in self.processes}
        self.sharers.settle(living, self.processes)
        for process in self.processes.values():
            process.has_relatives = len(living) > 1

    def _know(self, pid: int, stopped: Mapping[int, FrozenProcess]) -> bool:
        """Attach to it when it is new, or another program than it was; False when it ends meanwhile."""
        frozen, same = stopped.get(pid), self.sharers.group(pid)
        for attempt in range(ATTEMPTS):
            try:
                if pid not in self.processes or self.processes[pid].is_over:
                    same = [one for one in same if one in stopped or not has_ended(one, self.reader)]
                    self._attach(pid, stopped, same, stands_still=attempt > 0 or bool(same))
                self.processes[pid].frozen = frozen
                return True
            except (MigrateError, OSError) as error:
                if pid != self._family.members[0].pid and has_ended(pid, self.reader):
                    return False
                is_over = any(has_ended(one, self.reader) for one in same if one not in stopped)
                is_over = is_over or (pid in self.processes and self.processes[pid].is_over)
                is_starting = isinstance(error, NotBorrowable) and frozen is None
                if not (is_over or is_starting) or attempt == ATTEMPTS - 1:
                    raise
                time.sleep(STARTING_POLL_S)
        return False

    def _attach(
        self, pid: int, stopped: Mapping[int, FrozenProcess], same: Sequence[int], *, stands_still: bool
    ) -> None:
        """`same`: who else has its memory. `stands_still`: others use that, or it executed another program while it was
        looked at."""
        if stands_still and pid not in stopped:
            with ExitStack() as held:
                stopped = {one: held.enter_context(freeze(one, self.reader)) for one in (pid, *same)}
                return self._attach(pid, stopped, same, stands_still=True)
        known, prepared = self.processes.get(pid), self._stack.enter_context(prepare(pid, self.reader))
        ways = (self.reader, self.ghosts.ghosts, self.shared.segments, stopped.get(pid))
        made = LiveProcess(prepared, self.options, *ways)
        if known is not None:
            made.succeed(known)
        self.processes[pid] = made
        made.attach([stopped[one] for one in same])

    def has_left(self, pid: int) -> bool:
        """True for a process that has ended or executed another program since it was last looked at, while free to."""
        process = self.processes[pid]
        is_root = pid == self._family.members[0].pid
        return process.frozen is None and (process.is_over or (not is_root and has_ended(pid, self.reader)))

    def scan(self) -> Scanned:
        """Which pages are dirty now; tracking begins anew. Nothing stops, but for a tracker that needs it."""
        self._listen()
        self._meet(read_settled(self.pid, self.reader, self.everybody), {})
        prepare_looks(self.processes.values())
        stopped_s = 0.0
        if any(process.needs_stop for process in self.processes.values()):
            stopped_s = self._look_stopped()
        else:
            self._look()
        has_settled = self._writers.settle(self._tgids)
        self._foreseen.look_at_memory([one.space for one in self.processes.values()], self.reader)
        self._look_at_shared()
        self._foreseen.look(self._pidfds(), self.reader, self.options, self.shared.segments)
        if not has_settled:
            distrust(self.processes.values(), self.files)
        stand_in = self.options.files.terminal == "new"
        self._terminals = find_controlling(self._family, self._prepared().values(), self.reader, stand_in=stand_in)
        shape = shape_of(self._family, self.processes, self._terminals)
        mould = self._casting.cast(self.processes, shape)
        return Scanned(self._tree_images(self._family), stopped_s, compared_s(self.processes, self.files), mould)

    def _look_at_shared(self) -> None:
        """After the processes' own memory, which names what they map: deleted files and memfds that are open alone."""
        self._look_at_mappers()
        self.ghosts.find(self._pidfds(), self.reader, self._mappers)
        for pid in self.everybody:
            with suppress(OSError):  # it ended, or closed one meanwhile
                self.shared.find_open(pid, self.reader)
        self.shared.look(self._mappers)

    def _listen(self) -> None:
        self._mappers.listen(wanted=bool(self.files) or any(one.may_share for one in self.processes.values()))

    def _look_at_mappers(self) -> None:
        found = [(one, one) for one in self.processes.values()] + [(one, one.holder) for one in self.sharers]
        self._mappers.look([Mapper(one.prepared.tgid, holder.shared_vmas, holder.shared) for one, holder in found])

    def _look_stopped(self) -> float:
        started = time.monotonic()
        _, frozen = stop_met(self.pid, self.reader, self._meet, self._prepared())
        try:
            self._look()
        finally:
            self._let_go()
            release(frozen)
        return time.monotonic() - started

    def _file_holders(self) -> list[FileHolder]:
        vmas = {pid: process.current for pid, process in self.processes.items()}
        return [FileHolder(pid, one.prepared.pidfd, vmas.get(pid, ())) for pid, one in self.everybody.items()]

    def _pidfds(self) -> list[tuple[int, int]]:
        return [(pid, process.prepared.pidfd) for pid, process in self.everybody.items()]

    @property
    def _tgids(self) -> set[int]:
        return {process.prepared.tgid for process in self.everybody.values()}

    def _prepared(self) -> dict[int, Prepared]:
        return {pid: process.prepared for pid, process in self.everybody.items()}

    @property
    def mould(self) -> dict[int, Ranges]:
        """What of the last scan's `mould` is on its way."""
        return self._casting.owned

    def lacks_of_mould(self, own_pid: int, missing: Ranges) -> None:
        """Pages of the mould that could not be read."""
        self._casting.lacks(own_pid, missing)

    def _look(self, *, last: bool = False) -> None:
        self.ghosts.ghosts.begin_look()
        gone = set()
        maps = self.reader.contents([(pid, "maps") for pid in self.processes])
        look_at_all(list(zip(self.processes.values(), maps, strict=True)), last=last)
        for (pid, process), content in zip(self.processes.items(), maps, strict=True):
            try:
                process.look(content_of(content), last=last)
            except (MigrateError, OSError):
                if not self.has_left(pid):
                    raise
                if has_ended(pid, self.reader) or not process.has_looked:  # else it is met anew next time
                    gone.add(pid)
        self._settle(self._family, gone)

    def _tree_images(self, family: Family, collected: ImageSet | None = None) -> ImageSet:
        return tree_images(family, self.shared, self.ghosts, self._terminals, collected)

    def freeze(self) -> Froze:
        """Stop all of it for good and collect everything. On any error it runs on. Until close() we keep our garbage:
        while it stands still there is no time to look for it."""
        self._stack.enter_context(without_collector())
        asked = time.monotonic()
        with suppress(OSError):  # of a thread that has ended: the freeze tells
            self._network_files.flush_before(self._file_holders())
        prepare_looks(self.processes.values(), last=True)
        self._listen()  # there is less to hear of then
        self._writers.settle(self._tgids, strange=True)
        watch = Stopwatch()
        family, frozen = stop_met(self.pid, self.reader, self._meet_all, self._prepared(), watch)
        ran_s = (watch.began or asked) - asked
        watch.lap("freeze")
        try:
            self._writers.refuse(self.pid, self._tgids)
            self._network.lock()
            self._look(last=True)
            gone = {process.own_pid: process.sent.subtract(process.present()) for process in self.processes.values()}
            watch.lap("last scan")
            if self._network_files.flush(self._file_holders()):
                watch.lap("network files")
            self._images = images = self._collect(family, frozen)
            watch.lap("collect")
            self._mappers.listen(wanted=False)
            self._look_at_mappers()
            self.ghosts.look(self._mappers, last=True)
            self.shared.look(self._mappers, last=True)
            watch.lap("shared memory")
        except BaseException as error:
            self._network.unlock_whatever_it_says()
            self._let_go()
            killed = [pid for pid in frozen if has_ended(pid, self.reader)] if isinstance(error, Exception) else []
            release(frozen)
            if killed:
                raise TraceeError(killed[0], "was killed while it stood still", hint="try again") from error
            raise
        return Froze(self._tree_images(family, images), images, gone, tuple(watch.phases), ran_s)

    def _meet_all(self, family: Family, frozen: dict[int, FrozenProcess]) -> None:
        holder, ended = self.holder, [one.tgid for one in family.living if one.pid != one.tgid]
        refuse_strays(family, {*holder.pids(), *filter(holder.holds, ended)} if holder else ())
        self._meet(family, frozen)

    def _collect(self, family: Family, frozen: dict[int, FrozenProcess]) -> ImageSet:
        statuses = read_statuses(frozen, self._prepared(), self.reader)
        known = self.ghosts.ghosts, self.shared.segments, self._foreseen
        with ExitStack() as lent:
            subjects = [
                self.processes[one.pid].subject(one, statuses[one.pid])
                if one.pid in self.processes
                else self.sharers.subject(lent, one.pid, frozen, one.parent)
                for one in family.living
            ]
            images = collect_tree(subjects, zombies_of(family), self.options, *known)
        if self.options.files.terminal == "new":
            stand_in_for_outside(family.members[0], images, self.reader)
        return images

    def hold(self) -> None:
        """Let the cgroup hold the freeze instead of us: it survives our death. Returns when everything stands still."""
        if self.holder is None or not all(process.frozen for process in self.everybody.values()):
            raise TraceeError(self.pid, "is not frozen")
        self.options.scripts.run(Action.POST_DUMP, self.pid)
        for pid in self._tgids - set(self.holder.pids()):
            self.holder.add_spawned(pid)
        self.holder.request_freeze()
        for process in self.everybody.values():
            process.let_run()
        self.holder.wait_frozen()
        self._held = True

    def throttle(self, share: float) -> None:
        """Bound the tree to `share` (0 … 1) of all CPUs; KernelLacks when we cannot."""
        if self.holder is None:
            raise TraceeError(self.pid, "is not attached")
        self.holder.limit_cpu(share)

    def kill(self) -> None:
        """End the tree (the copy runs) and remove the cgroup; returns when it is gone."""
        self._network.leave()
        end_all(list(self.everybody.values()))
        if not self.shared.segments.own_ipc:  # which goes with its last process
            self.shared.segments.remove_moved()
            sysv_ipc.remove_moved(self._images, self.reader)
            posix_mqueue.remove_moved(self._images)
        self.ghosts.ghosts.remove_moved()
        if self.holder is not None:
            self.holder.give_back()

    def thaw(self) -> float:
        """Give everything back: the tree runs on as if nothing had been. Idempotent. Returns since when all of it runs,
        by time.monotonic()."""
        if self._held:
            raise TraceeError(self.pid, "has been handed over: only its copy's fate decides now")
        self._network.unlock_whatever_it_says()
        if self.holder is not None and not any(process.frozen for process in self.everybody.values()):
            self.holder.thaw()  # when hold() failed half-way
        self.ghosts.ghosts.undo_links()
        for one in self.sharers:
            one.let_run()
        try:
            return give_back_all(list(self.processes.values()))
        finally:
            self.processes.clear()
            self.sharers.known.clear()
            holder, self.holder = self.holder, None
            if holder is not None:
                holder.give_back()

    def close(self) -> None:
        """Let go of trackers and descriptors; changes nothing of the tree."""
        for process in self.processes.values():
            process.close()
        self.ghosts.close()
        self.shared.close()
        self._foreseen.close()
        self._mappers.close()
        self._writers.close()
        self._stack.close()
