"""Who belongs to a tree: a process and all its descendants, read from /proc; and all of them stopped at once."""

import errno
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from core.errors import Blocker, TraceeError
from core.kernel import ptrace
from core.proc.brief import BriefStatus, parse_brief
from core.proc.children import children_of
from core.proc.main_thread import DEAD_STATES, is_dead, main_thread
from core.proc.reader import ProcReader, content_of
from core.proc.stat import Stat, parse_stat
from core.tracee.freezer import FrozenProcess, stop_processes
from core.tracee.remote import open_memory
from core.tracee.vfork import HINT, VFORK_LIMIT_S, is_vfork, waiting_for
from core.vdso.mark import NO_CODE, VdsoCode, vdso_code

FREEZE_DEADLINE_S = 10.0
VFORK_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the tree: `tgid` is ours for it, all other ids are as it sees them. `parent` 0: the root.

    `pid` is the thread through which it is looked at and stopped: the first (then it is `tgid`) unless that has ended.
    """

    pid: int
    tgid: int
    own_pid: int
    parent: int
    pgid: int
    sid: int
    comm: str
    is_dead: bool
    exit_code: int  # wait(2)'s status, of the dead
    terminal: int = 0  # device number of its controlling one
    stat: Stat | None = field(default=None, compare=False, repr=False)  # of the process, when it was looked at


@dataclass(frozen=True, slots=True)
class Family:
    """Members, parents before children."""

    members: tuple[Member, ...] = ()

    @property
    def living(self) -> list[Member]:
        """Those that run."""
        return [member for member in self.members if not member.is_dead]

    @property
    def dead(self) -> list[Member]:
        """Zombies."""
        return [member for member in self.members if member.is_dead]

    @property
    def pids(self) -> set[int]:
        """Every number of ours for one of them."""
        return {pid for member in self.members for pid in (member.pid, member.tgid)}

    def refuse_other_threads(self, known: Mapping[int, int]) -> None:
        """`known`: through which threads processes were looked at, by tgid. TraceeError when one of those has ended:
        begin again with another."""
        for one in self.living:
            if known.get(one.tgid, one.pid) != one.pid:
                reason = f"a thread of pid {one.tgid} that was held on to has ended"
                raise TraceeError(known[one.tgid], reason, hint="try again")


def read_family(root: int, reader: ProcReader) -> Family:
    """The tree below and with `root`, now; who goes while we look is left out. ProcessLookupError: the root is gone."""
    return _read_all(root, reader, {})[0]


def _read_all(root: int, reader: ProcReader, known: dict[int, "_Looked"]) -> tuple[Family, bool]:
    """The tree, and whether somebody went while we looked, whose children may be with one looked at before.

    `known`: who was looked at before and stands still since; in the end, all of the tree.
    """
    stopped = dict(known)
    known.clear()
    anyone_went = False
    level = [root]
    while level:
        looked, somebody_went = _look_at(level, reader, stopped)
        anyone_went = anyone_went or somebody_went
        known.update(looked)
        level = [child for one in looked.values() for child in one.children if child not in known]
    if root not in known:
        raise ProcessLookupError(errno.ESRCH, f"pid {root}: no such process")
    return Family(tuple(_in_order(root, known))), anyone_went


@dataclass(frozen=True, slots=True)
class _Looked:
    """One process: what /proc says of it, through which thread it is looked at, and its children."""

    status: BriefStatus
    stat: Stat
    thread: int
    children: tuple[int, ...]

    def says_as_much(self, now: Stat) -> bool:
        """Whether its status still says of ids and state what it said. It may have been moved to another group, or
        another process may have its number."""
        before = self.stat
        is_alive = now.state not in DEAD_STATES and self.status.state not in DEAD_STATES
        facts = now.pgrp, now.session, now.start_time
        return is_alive and facts == (before.pgrp, before.session, before.start_time)

    def member(self, pid: int, parent: int) -> Member:
        is_dead = self.status.state in DEAD_STATES and self.stat.num_threads <= 1
        return Member(
            self.thread, pid, self.status.own_tid, parent, self.status.pgid, self.status.sid, self.stat.comm, is_dead,
            self.stat.exit_code, self.stat.tty_nr, self.stat,
        )  # fmt: skip


def _look_at(pids: list[int], reader: ProcReader, stopped: Mapping[int, _Looked]) -> tuple[dict[int, _Looked], bool]:
    """These processes in one go, and whether any of them, or a thread, went meanwhile. `stopped` as in _read_all."""
    parsed = _read_again({pid: stopped[pid] for pid in pids if pid in stopped}, reader)
    others = [pid for pid in pids if pid not in parsed]
    found = reader.contents([(pid, name) for pid in others for name in ("status", "stat")])
    for pid, status, stat in zip(others, found[::2], found[1::2], strict=True):
        if _is_there(status) and _is_there(stat):
            parsed[pid] = parse_brief(content_of(status)), parse_stat(os.fsdecode(content_of(stat)))
    children, thread_went = children_of({pid: stat.num_threads for pid, (_, stat) in parsed.items()}, reader)
    looked = {
        pid: _Looked(status, stat, _thread_of(pid, status, reader), tuple(children[pid]))
        for pid, (status, stat) in parsed.items()
        if pid in children
    }
    return looked, thread_went or len(looked) < len(pids)


def _read_again(stopped: Mapping[int, _Looked], reader: ProcReader) -> dict[int, tuple[BriefStatus, Stat]]:
    """Of those that were looked at before and stand still: whose status says what it said."""
    found = {}
    for (pid, one), text in zip(stopped.items(), reader.contents([(pid, "stat") for pid in stopped]), strict=True):
        if isinstance(text, bytes) and one.says_as_much(stat := parse_stat(os.fsdecode(text))):
            found[pid] = one.status, stat
    return found


def _thread_of(pid: int, status: BriefStatus, reader: ProcReader) -> int:
    return main_thread(pid, reader) if status.state in DEAD_STATES else pid


def _is_there(found: bytes | OSError) -> bool:
    if isinstance(found, OSError) and not isinstance(found, ProcessLookupError):
        raise found
    return isinstance(found, bytes)


def _in_order(root: int, known: Mapping[int, _Looked]) -> Iterator[Member]:
    """Parents before children, each with its whole branch."""
    todo = [(root, 0)]
    while todo:
        pid, parent = todo.pop()
        one = known[pid]
        yield one.member(pid, parent)
        todo += [(child, one.status.own_tid) for child in reversed(one.children) if child in known]


def stop_family(
    root: int,
    reader: ProcReader,
    code: Mapping[int, VdsoCode],
    on_stop: Callable[[float], object] = lambda began_s: None,
) -> tuple[Family, dict[int, FrozenProcess]]:
    """Stop every process of the tree, also those born meanwhile, or none; TraceeError names who does not stop.

    `code`: by PID, where the vDSO of those is that were known before. `on_stop`: see stop_processes().
    """
    frozen: dict[int, FrozenProcess] = {}
    deadline = time.monotonic() + FREEZE_DEADLINE_S
    try:
        known: set[tuple[int, bool]] = set()
        looked: dict[int, _Looked] = {}
        while True:
            looked = {pid: one for pid, one in looked.items() if one.thread in frozen}
            family, anyone_went = _read_all(root, reader, looked)
            if not frozen and await_vforks(vforks(family, reader), reader):
                continue
            new = [member.pid for member in family.living if member.pid not in frozen]
            seen = {(member.pid, member.is_dead) for member in family.members}
            if not new and not anyone_went and seen == known:
                living = [member.pid for member in family.living]
                release({pid: process for pid, process in frozen.items() if pid not in living})
                return family, {pid: frozen[pid] for pid in living}
            known = seen
            if time.monotonic() > deadline:
                raise TraceeError(root, "makes processes faster than they can be stopped")
            _stop(new, frozen, reader, code, on_stop)
    except BaseException:
        release(frozen)
        raise


def vforks(family: Family, reader: ProcReader) -> dict[int, int]:
    """Children that run in the memory of their parent, which waits for them in vfork(2): child → parent."""
    ours = {member.own_pid: member.pid for member in family.living}
    pairs = [(member.pid, ours[member.parent]) for member in family.living if member.parent in ours]
    return {child: parent for child, parent in pairs if is_vfork(parent, child, reader)}


def read_settled(root: int, reader: ProcReader, known: Collection[int]) -> Family:
    """The tree without children in their parents' memory (vfork): they are nobody yet. Who has one and is not `known`
    has to be met soon, so its child is waited for; TraceeError names one that takes too long."""
    while True:
        family = read_family(root, reader)
        pairs = vforks(family, reader)
        if not await_vforks({child: parent for child, parent in pairs.items() if parent not in known}, reader):
            return without(family, set(pairs))


def await_vforks(pairs: Mapping[int, int], reader: ProcReader) -> bool:
    """Wait until all of these have left vfork(2); True when there were any. TraceeError as above."""
    deadline = time.monotonic() + VFORK_LIMIT_S
    for child, parent in pairs.items():
        while is_vfork(parent, child, reader):
            if time.monotonic() > deadline:
                raise TraceeError(parent, f"{waiting_for(child, reader)}, for {VFORK_LIMIT_S:g} s by now", hint=HINT)
            time.sleep(VFORK_POLL_S)
    return bool(pairs)


def _stop(
    pids: Sequence[int], frozen: dict[int, FrozenProcess], reader: ProcReader, code: Mapping[int, VdsoCode],
    on_stop: Callable[[float], object],
) -> None:  # fmt: skip
    places = {pid: _code_of(pid, code, reader) for pid in pids}
    stopped, failed = stop_processes(pids, reader, code=places, on_stop=on_stop)
    frozen.update(stopped)
    for pid, error in failed.items():
        if not has_gone(pid, reader):
            raise error


def _code_of(pid: int, known: Mapping[int, VdsoCode], reader: ProcReader) -> VdsoCode:
    try:
        return known[pid] if pid in known else read_vdso_code(pid, reader)
    except (OSError, TraceeError):
        if not has_gone(pid, reader):
            raise
        return NO_CODE


def has_gone(pid: int, reader: ProcReader) -> bool:
    """The process has ended, or the thread through which it was looked at: then it is met through another one."""
    try:
        return is_dead(pid, reader) or not reader.maps(pid)
    except (ProcessLookupError, FileNotFoundError):
        return True


def read_vdso_code(pid: int, reader: ProcReader) -> VdsoCode:
    """Where the vDSO code of a process is now."""
    with open_memory(pid) as memory:
        return vdso_code(reader.maps(pid), memory.read)


def has_ended(pid: int, reader: ProcReader) -> bool:
    """It is a zombie or gone, or as good as: nothing is mapped in it any more."""
    try:
        return len(reader.tids(pid)) <= 1 and (reader.stat(pid).state in DEAD_STATES or not reader.maps(pid))
    except (ProcessLookupError, FileNotFoundError):
        return True


def without(family: Family, gone: set[int]) -> Family:
    """The family without the members of these PIDs and without those below them. Pure."""
    kept: list[Member] = []
    known = {0}
    for member in family.members:
        if member.pid not in gone and member.parent in known:
            kept.append(member)
            known.add(member.own_pid)
    return Family(tuple(kept))


def refuse_strays(family: Family, held: Collection[int]) -> None:
    """A process that left the tree (its parent ended) is still in our cgroup, `held`, and would be killed with it;
    TraceeError names it, or one of the tree that is not there."""
    members = family.pids
    if strays := [pid for pid in held if pid not in members]:
        raise TraceeError(strays[0], "left the tree while it was copied: its parent has ended", hint="try again")
    if free := [member.tgid for member in family.living if member.tgid not in held]:
        raise TraceeError(free[0], "is not held with its tree: it would run on beside its copy", hint="try again")


def ended_leader_blocker(pid: int) -> Blocker:
    """A refusal of process `pid`, whose first thread has ended, on a kernel that gives no pidfd of another."""
    hint = "its other threads go on, but their descriptors are out of reach: Linux 6.9 or newer has them (PIDFD_THREAD)"
    return Blocker("leader-ended", f"pid {pid}", "has ended its first thread (pthread_exit in main)", hint)


def release(frozen: dict[int, FrozenProcess]) -> None:
    """Let all of them run."""
    ptrace.detach([tid for process in frozen.values() for tid in process.tids])
