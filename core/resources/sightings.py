"""What was made of descriptors, by the records that it was made from.

A record (core.kernel.descriptors) that tells all is the only thing that an image is made of. So what was made while the
task ran is right in the freeze where the record is the same to the byte, however the descriptor came by it; where it is
not, it is made anew. Which open files are the same, no record tells.
"""

import os
import resource
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from core.errors import KernelLacks
from core.ids.shared import FileReference, KnownFiles
from core.images.codec import Record
from core.images.pb.descriptors_pb2 import PipeDataEntry
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.pb.filesystem_pb2 import MemfdInodeEntry
from core.kernel.descriptors import Hints, Questions, ints, is_error, longs, look, parse_sight
from core.kernel.file_facts import FileFacts, find_places, find_unset_timers, open_file_facts
from core.kernel.file_trials import try_facts
from core.kernel.socket_records import SocketRecords, open_socket_records
from core.kernel.socket_trials import find_shown
from core.kernel.unix_diag import Replies, UnixState
from core.plan.socket_options import LOOKED_AT
from core.proc.reader import ProcReader
from core.resources.context import Duplicate, Kind, OpenFile, file_of_sight

MANY: Final = 32  # descriptors of one task: of fewer fdinfo is not kept open
MANY_SOCKETS: Final = 64  # of one task: fewer are asked, all of them
MANY_FILES: Final = 128  # of one task whose records tell all: fewer are looked at, all of them


@dataclass(slots=True)
class Seen:
    """One descriptor whose record tells all, and what was made of it: of its open file if that was met there first."""

    file: OpenFile
    kind: Kind
    by_table: bool  # others have a say in whether it is refused: those of the table
    by_state: bool  # and in its entry: the kernel's word of a UNIX socket, the number of a memfd's memory
    reference: FileReference
    id: int = 0  # of the open file: what follows was made for it
    entry: Record[FileEntry] | None = None  # of the record and of `state`
    type: FdTypes = FdTypes.UND  # as the entry has it
    state: UnixState | None = None
    line: Record[FdinfoEntry] | None = None  # of its table
    segment: int = 0  # the number of the memory behind a memfd, and its image
    memory: Record[MemfdInodeEntry] | None = None
    content: Record[PipeDataEntry] | None = None  # of a pipe that is read here

    def note_number(self, id: int) -> None:
        """The open file has it: what was made for another number is void."""
        if self.id != id:
            self.id, self.entry, self.line, self.segment = id, None, None, 0


@dataclass(slots=True)
class _Kernel:
    """What spares asking in the freeze, as far as this kernel lets us."""

    sockets: SocketRecords | None = None
    questions: Questions = LOOKED_AT  # with those whose answers are taken from others that are alike
    files: FileFacts | None = None
    operations: Any = None  # as try_facts() has them


@dataclass(slots=True)
class _Task:
    """The descriptors of one task as they were last looked at."""

    pid: int
    pidfd: int
    records: dict[int, bytes] = field(default_factory=dict)
    seen: dict[int, Seen | None] = field(default_factory=dict)  # None: there is more to it than the record tells
    joined: bytes = b""
    places: dict[int, int] = field(default_factory=dict)  # of records in `joined`
    texts: dict[int, int] = field(default_factory=dict)  # ours of fdinfo, which holds nothing open but itself
    sockets: int = -1  # what tells which of them are alike
    files: int = -1  # what tells facts about them
    unset: frozenset[int] = frozenset()  # timerfds that cannot be due; of a task that stands still
    taken: list[Duplicate] = field(default_factory=list)  # ours of its descriptors, until they are given back
    prepared: tuple[list[int], Hints] | None = None  # for look(), of these

    def fds(self, reader: ProcReader) -> list[int]:
        """All that are open, or of many what were: they are as many as then, and look() finds it out if they differ.

        The kernel counts them since Linux 6.2."""
        if len(self.records) >= MANY and os.stat(reader.path(self.pid, "fd")).st_size == len(self.records):
            return sorted(self.records)
        return reader.fds(self.pid)

    def look(
        self, fds: Sequence[int], make: Callable[[OpenFile], Seen | None], kernel: _Kernel | None
    ) -> list[Seen | None] | None:
        """One of each; None: one is not open any more. `make`: of a file that was not seen before. `kernel`: the task
        stands still."""
        questions = LOOKED_AT if kernel is None else kernel.questions
        found = look(self.pid, self.pidfd, fds, questions, self._hints(fds, kernel))
        get = self.seen.get
        is_whole = True
        for fd, record in zip(fds, found, strict=True):
            if record is None:
                continue
            self.places.pop(fd, None)  # until settle(): it is not as it is in `joined` any more
            sight = parse_sight(record) if record != self.records.get(fd) or is_error(record) else None
            if sight is not None:
                self.seen[fd], self.records[fd] = None, record  # should it not come to more
                self.seen[fd] = make(file_of_sight(self.pid, fd, sight, self.pidfd, self.taken))
            elif is_error(record):
                is_whole, self.seen[fd] = False, None
                self.records.pop(fd, None)
        return [get(fd) for fd in fds] if is_whole else None

    def _hints(self, fds: Sequence[int], kernel: _Kernel | None) -> Hints:
        known, hints = self.prepared or ([], Hints())
        if known != fds:
            hints = self._prepare(fds)
        self.prepared, self.unset = None, frozenset()
        if kernel is None:
            return hints
        numbers = ints(fds)
        if kernel.sockets is not None and self.sockets >= 0:
            with suppress(OSError):
                hints = hints._replace(kinds=kernel.sockets.kinds(self.sockets, numbers))
        if kernel.files is not None and self.files >= 0:
            with suppress(OSError):
                facts = kernel.files.read(self.files)
                there = find_places(facts, numbers)
                hints = hints._replace(facts=facts, fact_places=there, operations=kernel.operations)
                self.unset = frozenset(find_unset_timers(facts, kernel.operations))
        return hints

    def _prepare(self, fds: Sequence[int]) -> Hints:
        places, texts = ([known.get(fd, -1) for fd in fds] for known in (self.places, self.texts))
        return Hints(self.joined, longs(places), ints(texts))

    def prepare(self) -> None:
        """For the next look, when it is of the same descriptors."""
        fds = sorted(self.records)
        self.prepared = fds, self._prepare(fds)

    def give_back(self) -> None:
        """Close ours of its descriptors."""
        for duplicate in self.taken:
            duplicate.close()
        self.taken.clear()

    def settle(self, fds: Sequence[int]) -> None:
        """What is gone is forgotten; the next look compares with this one."""
        self.records = {fd: self.records[fd] for fd in fds if fd in self.records}
        self.seen = {fd: self.seen[fd] for fd in fds}
        self.places, place = {}, 0
        for fd, record in self.records.items():
            self.places[fd] = place
            place += len(record)
        self.joined = b"".join(self.records.values())

    def hold(self, wanted: Sequence[int], reader: ProcReader) -> None:
        """Have fdinfo of these open, and of no others: that is most of what it costs to read it."""
        self.let_go(list(self.texts.keys() - set(wanted)))
        for fd in wanted:
            if fd not in self.texts:
                self.texts[fd] = os.open(reader.path(self.pid, f"fdinfo/{fd}"), os.O_RDONLY | os.O_CLOEXEC)

    def let_go(self, fds: Sequence[int]) -> None:
        """Close ours of these."""
        for fd in fds:
            os.close(self.texts.pop(fd))

    def close(self) -> None:
        """Close all of ours."""
        self.give_back()
        self.let_go(list(self.texts))
        for link in (self.sockets, self.files):
            if link >= 0:
                os.close(link)


@dataclass(slots=True)
class Sightings:
    """Of the tasks of a tree, for one migration: kept from look to look. `close` gives back what is ours."""

    files: KnownFiles = field(default_factory=KnownFiles)
    replies: Replies = field(default_factory=dict)  # of the kernel about UNIX sockets, as they were read
    _tasks: dict[tuple[int, int], _Task] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _kernel: _Kernel = field(default_factory=_Kernel)
    _tried: set[str] = field(default_factory=set)  # of the kernel's

    def look(
        self, pid: int, pidfd: int, reader: ProcReader, make: Callable[[OpenFile], Seen | None], *,
        is_frozen: bool = False,
    ) -> list[tuple[int, Seen | None]]:  # fmt: skip
        """Every descriptor of a task, ascending, with what was made of it where its record is the same still. Of one
        that `is_frozen` not every socket is asked: what one answers others would too, that are the same now."""
        kernel = self._kernel if is_frozen else None
        task = self._tasks.setdefault((pid, pidfd), _Task(pid, pidfd))
        fds = task.fds(reader)
        found = task.look(fds, make, kernel)
        if found is None:
            fds = reader.fds(pid)
            found = task.look(fds, make, kernel) or [task.seen.get(fd) for fd in fds]
        return list(zip(fds, found, strict=True))

    def untold(self, pid: int, pidfd: int, fd: int) -> OpenFile | None:
        """A file that was looked at and has more to it than its record tells; None when it was closed."""
        record = self._tasks[pid, pidfd].records.get(fd)
        sight = parse_sight(record) if record is not None else None
        return file_of_sight(pid, fd, sight, pidfd) if sight is not None else None

    def give_back(self, pid: int, pidfd: int) -> None:
        """Close what was taken of the descriptors of a task."""
        self._tasks[pid, pidfd].give_back()

    def unset_timers(self, pid: int, pidfd: int) -> frozenset[int]:
        """Descriptors of timerfds that cannot be due, as far as that is known of a task that stands still."""
        return self._tasks[pid, pidfd].unset

    def text(self, pid: int, pidfd: int, fd: int) -> int:
        """Ours of what /proc/PID/fdinfo says of whatever has that number; below 0 when it is not kept open."""
        return self._tasks[pid, pidfd].texts.get(fd, -1)

    def settle(self, pid: int, pidfd: int, fds: Sequence[int], reader: ProcReader) -> None:
        """After a look while the task runs: what the next one compares with. OSError: it has closed one."""
        task = self._tasks[pid, pidfd]
        task.settle(fds)
        told = [fd for fd in fds if task.seen[fd] is not None]
        if len(told) < MANY:
            told = []
        elif len(told) > len(task.texts):  # half of what we may have open stays free
            others = len(reader.fds(os.getpid())) - len(task.texts)
            told = told[: max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - others)]
        task.hold(told, reader)
        task.prepare()
        self._have_told(task)

    def _have_told(self, task: _Task) -> None:
        """Have the kernel tell about its descriptors in the freeze, where there are many and it lets us."""
        told = [one for one in task.seen.values() if one is not None]
        if task.sockets < 0 and sum(stat.S_ISSOCK(one.file.stat.st_mode) for one in told) >= MANY_SOCKETS:
            with suppress(KernelLacks, OSError):
                if self._is_new("sockets"):
                    sockets = self._stack.enter_context(open_socket_records())
                    self._kernel.questions = find_shown(sockets, LOOKED_AT)
                    self._kernel.sockets = sockets
                if self._kernel.sockets is not None:
                    task.sockets = self._kernel.sockets.open_task(task.pid)
        if task.files < 0 and len(told) >= MANY_FILES:
            with suppress(KernelLacks, OSError):
                if self._is_new("files"):
                    files = self._stack.enter_context(open_file_facts())
                    self._kernel.operations = try_facts(files)
                    self._kernel.files = files
                if self._kernel.files is not None:
                    task.files = self._kernel.files.open_task(task.pid)

    def _is_new(self, what: str) -> bool:
        """It was not tried before."""
        is_new = what not in self._tried
        self._tried.add(what)
        return is_new

    def keep(self, tasks: Iterable[tuple[int, int]]) -> None:
        """All others, by pid and pidfd, have ended."""
        for key in self._tasks.keys() - set(tasks):
            self._tasks.pop(key).close()

    def close(self) -> None:
        """Close all of ours. Idempotent."""
        self.keep(())
        self._stack.close()
        self._kernel = _Kernel()
