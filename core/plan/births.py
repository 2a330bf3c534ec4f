"""In which order the tasks of a tree are born so that sessions, process groups and parents come out right. Pure.

A session can only be joined by being born into it, so who is born before and who after its parent's setsid(2) matters;
where the leader of a session or group has ended, a helper takes its PID for the time of the births.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from core.errors import Blocker, Refused

CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_PARENT = 0x100, 0x200, 0x400, 0x800, 0x8000
FLAG_NAMES = {
    CLONE_VM: "CLONE_VM", CLONE_FS: "CLONE_FS", CLONE_FILES: "CLONE_FILES", CLONE_SIGHAND: "CLONE_SIGHAND",
    CLONE_PARENT: "CLONE_PARENT",
}  # fmt: skip
SHARED_NAMES = {
    CLONE_VM: "memory", CLONE_FS: "working directory", CLONE_FILES: "descriptor table", CLONE_SIGHAND: "signal actions",
}  # fmt: skip
SHAPE_HINT = "such a tree cannot be made anew: wait until that process has ended, or restart it"


@dataclass(frozen=True, slots=True)
class TaskShape:
    """A task's place in the tree. `parent` 0: the root. `dead`: a zombie.

    `files`, `fs`, `vm` and `sighand`: who is the first of those that share its descriptor table, its working directory
    and umask, its memory, its signal actions; 0: nobody does. `terminal`: the number of its controlling terminal's
    master, of one that leads its session; 0: none.
    """

    pid: int
    parent: int
    pgid: int
    sid: int
    dead: bool = False
    files: int = 0
    fs: int = 0
    terminal: int = 0
    vm: int = 0
    sighand: int = 0


class Act(Enum):
    """What is done, in order."""

    FORK = auto()  # `by` makes `pid`
    SETSID = auto()  # `pid` begins a session
    TERMINAL = auto()  # `pid` takes `terminal` for its session; who is born of it inherits that
    SETPGID = auto()  # `pid` joins the group `group`
    ADOPT = auto()  # `by` becomes a subreaper for the time of the births
    EXIT = auto()  # helper `pid` ends and is reaped by `by`
    UNADOPT = auto()  # `by` is what it was


@dataclass(frozen=True, slots=True)
class Birth:
    """One act of making the tree. A helper with a negative `pid` gets whatever PID is free."""

    act: Act
    pid: int
    by: int = 0
    group: int = 0
    flags: int = 0  # of clone3(2); with CLONE_PARENT it is born of a sibling
    terminal: int = 0

    def describe(self) -> str:
        """One line of a plan."""
        match self.act:
            case Act.FORK if self.pid < 0:
                return f"pid {self.by}: clone3: a helper whose child will be an orphan"
            case Act.FORK:
                sharing = "".join(f", {name}" for flag, name in FLAG_NAMES.items() if self.flags & flag)
                return f"pid {self.by}: clone3(set_tid{sharing}): pid {self.pid}"
            case Act.SETSID:
                return f"pid {self.pid}: setsid"
            case Act.TERMINAL:
                return f"pid {self.pid}: ioctl(TIOCSCTTY): terminal {self.terminal >> 1}"
            case Act.SETPGID:
                return f"pid {self.pid}: setpgid: group {self.group}"
            case Act.ADOPT | Act.UNADOPT:
                return f"pid {self.pid}: prctl: child subreaper {'for a while' if self.act is Act.ADOPT else 'no more'}"
            case Act.EXIT:
                who = "helper" if self.pid < 0 else f"pid {self.pid}"
                return f"{who}: exit: it stood in for a task that has ended; pid {self.by} reaps it"


def within_tree(tasks: Sequence[TaskShape]) -> list[TaskShape]:
    """The tree with sessions and groups whose leaders were never in it taken over by the root: the nearest there is.

    A leader that has ended cannot be told from one outside, except that the root itself is in the session.
    """
    root = tasks[0]
    if root.sid == root.pid:
        return list(tasks)
    pids = {task.pid for task in tasks}
    moved = {old: root.pid for old in (root.sid, root.pgid) if old not in pids}
    shaped = [replace(task, sid=moved.get(task.sid, task.sid), pgid=moved.get(task.pgid, task.pgid)) for task in tasks]
    if shaped[0].sid == root.pid:
        shaped[0] = replace(shaped[0], pgid=root.pid)
    return shaped


def plan_births(tasks: Sequence[TaskShape]) -> list[Birth]:
    """Acts that make the tree below the root, which is there already. Parents come before children in `tasks`.

    Refused names the task whose session or group cannot be had.
    """
    shaped = within_tree(tasks)
    planner = _Planner({task.pid: task for task in shaped})
    planner.bear(shaped[0])
    planner.group()
    planner.part()
    return planner.births


class _Planner:
    def __init__(self, tasks: Mapping[int, TaskShape]) -> None:
        self.births: list[Birth] = []
        self._tasks = tasks
        self._children: dict[int, list[TaskShape]] = {}
        for task in tasks.values():
            self._children.setdefault(task.parent, []).append(task)
        self._needs = self._find_needs()
        self._session: dict[int, int] = {}  # of every task born so far, as it is now
        self._helpers: dict[int, int] = {}  # helper → who forked it
        self._adopting: list[int] = []
        self._orphans: list[TaskShape] = []  # of sessions whose leaders live: born when everybody else is there

    def _find_needs(self) -> dict[int, int]:
        """Which session each task has to be born into; 0: it begins its own and no child of it is older than that."""
        needs: dict[int, int] = {}
        for task in reversed([*self._tasks.values()]):
            needs[task.pid] = task.sid
            if task.sid == task.pid:
                older = (needs[child.pid] for child in self._children.get(task.pid, []))
                needs[task.pid] = next(
                    (s for s in older if s not in (0, task.pid) and self._may_be_born_in(task, s)), 0
                )
        return needs

    def _may_be_born_in(self, task: TaskShape, session: int) -> bool:
        """Its leader is an ancestor, or has ended."""
        if session not in self._tasks:
            return task.parent != 0
        while task.parent and task.pid != session:
            task = self._tasks[task.parent]
        return task.pid == session

    def bear(self, root: TaskShape) -> None:
        """Everybody, in the session that each needs."""
        self._session[root.pid] = 0
        self._bear_all([root])
        for orphan in self._orphans:
            self._bear_orphan(orphan)

    def _bear_all(self, todo: list[TaskShape | Birth]) -> None:
        """Those of `todo`, last first, with all their descendants. A task in it that is born already begins to fork."""
        while todo:
            item = todo.pop()
            if isinstance(item, Birth):
                self._session[item.pid] = item.pid
                self.births.append(item)
                if terminal := self._tasks[item.pid].terminal:
                    self.births.append(Birth(Act.TERMINAL, item.pid, terminal=terminal))
            elif item.pid in self._session or self._place(item):
                todo += reversed(self._family_of(item))

    def _family_of(self, task: TaskShape) -> list[TaskShape | Birth]:
        """What a task that was just born does: children for its old session, its own session, the other children."""
        children = self._children.get(task.pid, [])
        if task.sid != task.pid:
            return [*children]
        born_into = self._session[task.pid]
        early = [child for child in children if self._needs[child.pid] == born_into != 0]
        late = [child for child in children if child not in early]
        return [*early, Birth(Act.SETSID, task.pid), *late]

    def _place(self, child: TaskShape) -> bool:
        """The child is born, of its parent or of a stand-in for who has ended; False: only later."""
        need = self._needs[child.pid]
        if need in (0, self._session[child.parent]):
            self._fork(child.pid, child.parent)
        elif need in self._tasks:
            self._orphans.append(child)
            return False
        else:
            self._stand_in(need, child)
            self._fork(child.pid, need)
        return True

    def _fork(self, pid: int, by: int) -> None:
        by, flags = self._sharer(pid, by)
        self._session[pid] = self._session[by]
        self.births.append(Birth(Act.FORK, pid, by, flags=flags))

    def _sharer(self, pid: int, by: int) -> tuple[int, int]:
        """Who bears `pid` so that it shares what it has to (`by`, or a sibling of its session), and the flags."""
        task = self._tasks.get(pid)
        wanted = {(flag, first) for flag, first in _shared(task) if first != pid} if task else set()
        if task is None or not wanted:
            return by, 0
        flags = sum(flag for flag, _ in wanted)
        if by in self._tasks and wanted <= _shared(self._tasks[by]):
            return by, flags
        for sibling in self._children[task.parent]:
            born = self._session.get(sibling.pid) == self._session[by]
            if born and by == task.parent and wanted <= _shared(sibling):
                return sibling.pid, flags | CLONE_PARENT
        what = " and its ".join(SHARED_NAMES[flag] for flag, _ in sorted(wanted))
        others = ", ".join(str(first) for first in sorted({first for _, first in wanted}))
        reason = f"shares its {what} with pid {others}: neither parent nor sibling"
        raise Refused([Blocker("shared-task", f"pid {pid}", reason, SHAPE_HINT)])

    def _help(self, pid: int, by: int) -> None:
        self._helpers[pid] = by
        self._fork(pid, by)

    def _stand_in(self, session: int, child: TaskShape) -> None:
        """A helper leads the session, and will leave what it bore to the parent of `child`."""
        adopter = child.parent
        if self._helpers.get(session, adopter) != adopter:
            raise _refused(child, f"is of session {session}, whose leader has ended, and so are tasks of other parents")
        if session in self._helpers:
            return
        self._adopt(adopter)
        self._help(session, adopter)
        self._session[session] = session
        self.births.append(Birth(Act.SETSID, session))

    def _adopt(self, pid: int) -> None:
        if pid not in self._adopting:
            self._adopting.append(pid)
            self.births.append(Birth(Act.ADOPT, pid, pid))

    def _bear_orphan(self, child: TaskShape) -> None:
        """A task of a living session that a subreaper adopted: born of a helper of its session that ends at once."""
        leader = self._needs[child.pid]
        helper = -child.pid
        self._refuse_other_adopters(child, leader)
        lasting = child.parent in self._adopting
        self._adopt(child.parent)
        self._fork(helper, leader)
        self._fork(child.pid, helper)
        self.births.append(Birth(Act.EXIT, helper, leader))
        del self._session[helper]
        if not lasting:
            self._adopting.remove(child.parent)
            self.births.append(Birth(Act.UNADOPT, child.parent, child.parent))
        self._bear_all([child])

    def _refuse_other_adopters(self, child: TaskShape, leader: int) -> None:
        """The parent must be the first subreaper above the leader, which must be there."""
        above = leader
        while above in self._session and above != child.parent and above not in self._adopting:
            above = self._tasks[above].parent
        if leader not in self._session or above != child.parent:
            raise _refused(child, f"is of session {leader}, whose tasks leave their children to another parent")

    def group(self) -> None:
        """Groups: leaders first, also those that have left their group since, then who joins them."""
        living = [task for task in self._tasks.values() if task.sid != task.pid]
        wanted = {task.pgid: task for task in living}
        for group, member in wanted.items():
            if group not in self._tasks and group not in self._helpers:
                self._help(group, next(pid for pid, session in self._session.items() if session == member.sid))
        for group in wanted:
            if self._session[group] != group:
                self.births.append(Birth(Act.SETPGID, group, group=group))
        joining = [task for task in living if task.pgid != task.pid]
        for task in sorted(joining, key=self._groups_away, reverse=True):
            self.births.append(Birth(Act.SETPGID, task.pid, group=task.pgid))

    def _groups_away(self, task: TaskShape) -> int:
        """How many have to stay in the groups they lead until `task` has joined its own."""
        passed = {task.pid}
        while task.pgid != task.pid:
            if task.pgid in passed:
                reason = "is in a group whose leader is in its own"
                raise Refused([Blocker("group-ring", f"pid {task.pid}", reason, SHAPE_HINT)])
            passed.add(task.pgid)
            if task.pgid not in self._tasks:
                break
            task = self._tasks[task.pgid]
        return len(passed)

    def part(self) -> None:
        """Helpers end, youngest first; who adopted lets go of it."""
        self.births += [Birth(Act.EXIT, pid, by) for pid, by in reversed(self._helpers.items())]
        self.births += [Birth(Act.UNADOPT, pid, pid) for pid in self._adopting]


def _shared(task: TaskShape) -> set[tuple[int, int]]:
    """What a task shares: flag of clone(2), and the first who has it."""
    firsts = ((CLONE_FILES, task.files), (CLONE_FS, task.fs), (CLONE_VM, task.vm), (CLONE_SIGHAND, task.sighand))
    return {(flag, first) for flag, first in firsts if first}


def _refused(task: TaskShape, reason: str) -> Refused:
    return Refused([Blocker("orphan-session", f"pid {task.pid}", reason, SHAPE_HINT)])
