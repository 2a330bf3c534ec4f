"""Who belongs to a tree: a process and all its descendants, read from /proc; and all of them stopped at once."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from core.errors import TraceeError
from core.kernel import ptrace
from core.proc.reader import ProcReader
from core.tracee.freezer import FrozenProcess, stop_process
from core.tracee.vfork import HINT, VFORK_LIMIT_S, is_vfork, waiting_for

DEAD_STATES = frozenset("ZX")
FREEZE_DEADLINE_S = 10.0
VFORK_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the tree: `pid` is ours for it, all other ids are as it sees them. `parent` 0: the root."""

    pid: int
    own_pid: int
    parent: int
    pgid: int
    sid: int
    comm: str
    is_dead: bool
    exit_code: int  # wait(2)'s status, of the dead


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


def read_family(root: int, reader: ProcReader) -> Family:
    """The tree below and with `root`, now; who goes while we look is left out. ProcessLookupError: the root is gone."""
    return _read_all(root, reader)[0]


def _read_all(root: int, reader: ProcReader) -> tuple[Family, bool]:
    """The tree, and whether somebody went while we looked, whose children may be with one looked at before."""
    members: list[Member] = []
    anyone_went = False
    todo = [(root, 0)]
    while todo:
        pid, parent = todo.pop()
        try:
            member = _read_member(pid, parent, reader)
            children = [] if member.is_dead else reader.children(pid)
        except ProcessLookupError:
            if pid == root:
                raise
            anyone_went = True
            continue
        members.append(member)
        todo += [(child, member.own_pid) for child in reversed(children)]
    return Family(tuple(members)), anyone_went


def _read_member(pid: int, parent: int, reader: ProcReader) -> Member:
    status, stat = reader.status(pid), reader.stat(pid)
    return Member(
        pid, status.ns_pid[-1], parent, status.ns_pgid[-1], status.ns_sid[-1], stat.comm,
        status.state in DEAD_STATES and len(reader.tids(pid)) == 1, stat.exit_code,
    )  # fmt: skip


def stop_family(root: int, reader: ProcReader) -> tuple[Family, dict[int, FrozenProcess]]:
    """Stop every process of the tree, also those born meanwhile, or none; TraceeError names who does not stop."""
    frozen: dict[int, FrozenProcess] = {}
    deadline = time.monotonic() + FREEZE_DEADLINE_S
    try:
        known: set[tuple[int, bool]] = set()
        while True:
            family, anyone_went = _read_all(root, reader)
            if not frozen and await_vforks(vforks(family, reader), reader):
                continue
            new = [member for member in family.living if member.pid not in frozen]
            seen = {(member.pid, member.is_dead) for member in family.members}
            if not new and not anyone_went and seen == known:
                return family, {member.pid: frozen[member.pid] for member in family.living}
            known = seen
            if time.monotonic() > deadline:
                raise TraceeError(root, "makes processes faster than they can be stopped")
            for member in new:
                _stop(member, frozen, reader)
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


def _stop(member: Member, frozen: dict[int, FrozenProcess], reader: ProcReader) -> None:
    try:
        frozen[member.pid] = stop_process(member.pid, reader)
    except (ProcessLookupError, TraceeError):
        if not has_ended(member.pid, reader):
            raise


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


def release(frozen: dict[int, FrozenProcess]) -> None:
    """Let all of them run."""
    for process in frozen.values():
        ptrace.detach(process.tids)
