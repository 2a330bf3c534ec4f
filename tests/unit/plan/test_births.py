"""Trees with any past are born again with the same parents, sessions and groups, in a model of the kernel."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from core.errors import Refused
from core.plan.births import Act, Birth, TaskShape, plan_births, within_tree

INIT = 1
ROOT = 100
OUTSIDE = 50  # leads session and group of whoever started the root


@dataclass
class Task:
    pid: int
    parent: int
    pgid: int
    sid: int
    dead: bool = False
    subreaper: bool = False


@dataclass
class Kernel:
    """Fork, setsid, setpgid, exit and wait by the kernel's rules; an AssertionError is its EPERM."""

    tasks: dict[int, Task] = field(default_factory=dict)

    def in_use(self, pid: int) -> bool:
        return any(pid in (task.pid, task.pgid, task.sid) for task in self.tasks.values())

    def fork(self, parent: int, pid: int) -> None:
        by = self.tasks[parent]
        assert not by.dead and not self.in_use(pid), f"{parent} forks {pid}"
        self.tasks[pid] = Task(pid, parent, by.pgid, by.sid)

    def setsid(self, pid: int) -> None:
        assert not any(task.pgid == pid for task in self.tasks.values()), f"setsid of {pid}"
        self.tasks[pid].sid = self.tasks[pid].pgid = pid

    def setpgid(self, pid: int, group: int) -> None:
        mine = self.tasks[pid]
        members = [task for task in self.tasks.values() if task.pgid == group]
        assert mine.sid != pid, f"{pid} leads a session"
        assert group == pid or any(task.sid == mine.sid for task in members), f"{pid} joins {group}"
        mine.pgid = group

    def exit(self, pid: int) -> None:
        reaper = self.reaper(pid)
        self.tasks[pid].dead = True
        for task in self.tasks.values():
            if task.parent == pid:
                task.parent = reaper

    def reaper(self, pid: int) -> int:
        above = self.tasks[pid].parent
        while above in self.tasks and not self.tasks[above].subreaper:
            above = self.tasks[above].parent
        return above if above in self.tasks else INIT

    def wait(self, parent: int, pid: int) -> None:
        assert self.tasks[pid].dead and self.tasks[pid].parent == parent, f"{parent} reaps {pid}"
        del self.tasks[pid]

    def shapes(self) -> list[TaskShape]:
        """What belongs to the root's tree, parents before children."""
        return list(self.below(self.tasks[ROOT], 0))

    def below(self, task: Task, parent: int) -> Iterator[TaskShape]:
        yield TaskShape(task.pid, parent, task.pgid, task.sid, task.dead)
        for child in self.tasks.values():
            if child.parent == task.pid:
                yield from self.below(child, task.pid)


def act_out(births: list[Birth]) -> Kernel:
    """The births, acted out from a root that is there already."""
    kernel = Kernel({ROOT: Task(ROOT, INIT, OUTSIDE, OUTSIDE)})
    for birth in births:
        match birth.act:
            case Act.FORK:
                kernel.fork(birth.by, birth.pid)
            case Act.SETSID:
                kernel.setsid(birth.pid)
            case Act.SETPGID:
                kernel.setpgid(birth.pid, birth.group)
            case Act.ADOPT | Act.UNADOPT:
                kernel.tasks[birth.pid].subreaper = birth.act is Act.ADOPT
            case Act.EXIT:
                kernel.exit(birth.pid)
                kernel.wait(birth.by, birth.pid)
    return kernel


def assert_born_alike(shapes: list[TaskShape]) -> None:
    kernel = act_out(plan_births(shapes))
    assert sorted(map(living, kernel.shapes()), key=pid_of) == sorted(map(living, within_tree(shapes)), key=pid_of)
    assert len(kernel.tasks) == len(shapes), "nobody else is left"
    assert not any(task.subreaper for task in kernel.tasks.values())


def living(shape: TaskShape) -> TaskShape:
    """The dead die later, all at once."""
    return replace(shape, dead=False)


def pid_of(shape: TaskShape) -> int:
    return shape.pid


def tree(*rows: tuple[int, int, int, int]) -> list[TaskShape]:
    """Rows of pid, parent, pgid, sid below a root that leads its session."""
    return [TaskShape(ROOT, 0, ROOT, ROOT), *(TaskShape(*row) for row in rows)]


TREES = {
    "a pipeline": tree((101, 100, 100, 100), (102, 100, 100, 100)),
    "jobs of a shell": tree((101, 100, 101, 100), (102, 100, 101, 100), (103, 100, 103, 100)),
    "a session of its own": tree((101, 100, 101, 101), (102, 101, 101, 101)),
    "a child older than its parent's session": tree((101, 100, 101, 101), (102, 101, 100, 100)),
    "a grandchild older than two sessions": tree((101, 100, 101, 101), (102, 101, 102, 102), (103, 102, 100, 100)),
    "a group without leader": tree((102, 100, 101, 100), (103, 100, 101, 100)),
    "a session without leader": tree((102, 100, 101, 101), (103, 100, 103, 101)),
    "a group without leader in a session without leader": tree((103, 100, 102, 101), (104, 100, 102, 101)),
    "a leader that left its group": tree((101, 100, 102, 100), (102, 100, 102, 100), (103, 100, 101, 100)),
    "leaders that left in a row": tree(
        (101, 100, 102, 100), (102, 100, 103, 100), (103, 100, 103, 100), (104, 100, 101, 100)
    ),
    "an orphan of a living session": tree((101, 100, 101, 101), (103, 100, 101, 101), (104, 103, 104, 101)),
}  # fmt: skip


@pytest.mark.parametrize("shapes", TREES.values(), ids=TREES.keys())
def test_it_is_born_alike(shapes: list[TaskShape]) -> None:
    assert_born_alike(shapes)


@pytest.mark.parametrize("pgid", [ROOT, OUTSIDE, 51])
def test_a_root_that_led_nothing_leads_what_it_was_in(pgid: int) -> None:
    shapes = [TaskShape(ROOT, 0, pgid, OUTSIDE), TaskShape(101, ROOT, pgid, OUTSIDE), TaskShape(102, 101, 102, OUTSIDE)]
    assert_born_alike(shapes)
    assert {task.sid for task in within_tree(shapes)} == {ROOT}


def test_a_tree_of_any_depth_is_born() -> None:
    chain = [TaskShape(ROOT + depth, ROOT + depth - 1 if depth else 0, ROOT, ROOT) for depth in range(1000)]
    births = plan_births(chain)
    assert [birth.pid for birth in births if birth.act is Act.FORK] == [task.pid for task in chain[1:]]


def test_two_groups_with_each_other_s_leaders_are_refused() -> None:
    with pytest.raises(Refused, match="is in a group whose leader is in its own"):
        plan_births(tree((101, 100, 102, 100), (102, 100, 101, 100)))


def test_a_lost_session_under_two_parents_is_refused() -> None:
    with pytest.raises(Refused, match="is of session 99, whose leader has ended"):
        plan_births(tree((101, 100, 100, 100), (102, 100, 99, 99), (103, 101, 99, 99)))


VM, FILES, FS, SIGHAND, PARENT = 0x100, 0x400, 0x200, 0x800, 0x8000


def flags_of(*shapes: TaskShape) -> dict[int, tuple[int, int]]:
    """Of every task: who bears it, and with which flags."""
    return {birth.pid: (birth.by, birth.flags) for birth in plan_births(shapes) if birth.act is Act.FORK}


def test_who_shares_with_the_parent_is_born_sharing() -> None:
    root = TaskShape(100, 0, 100, 100, files=100, fs=100)
    child = TaskShape(101, 100, 100, 100, files=100)
    other = TaskShape(102, 100, 100, 100, fs=100)
    assert flags_of(root, child, other) == {101: (100, FILES), 102: (100, FS)}


def test_who_shares_with_a_sibling_alone_is_born_of_it() -> None:
    root = TaskShape(100, 0, 100, 100)
    elder = TaskShape(101, 100, 100, 100, files=101, fs=101)
    younger = TaskShape(102, 100, 100, 100, files=101, fs=101)
    assert flags_of(root, elder, younger) == {101: (100, 0), 102: (101, FILES | FS | PARENT)}


def test_memory_and_signal_actions_are_shared_at_any_depth_and_not_with_a_child_between() -> None:
    root = TaskShape(100, 0, 100, 100, vm=100)
    worker = TaskShape(101, 100, 100, 100, vm=100, sighand=101)
    below = TaskShape(102, 101, 100, 100, vm=100, sighand=101)
    forked = TaskShape(103, 102, 100, 100)
    beside = TaskShape(104, 100, 100, 100, vm=100)
    births = {101: (100, VM), 102: (101, VM | SIGHAND), 103: (102, 0), 104: (100, VM)}
    assert flags_of(root, worker, below, forked, beside) == births


def test_who_shares_with_a_cousin_is_refused_by_name() -> None:
    root = TaskShape(100, 0, 100, 100)
    one, other = TaskShape(101, 100, 100, 100), TaskShape(102, 100, 100, 100)
    with pytest.raises(Refused, match=r"pid 104: shares .* with pid 103: neither parent nor sibling"):
        plan_births([
            root, one, TaskShape(103, 101, 100, 100, files=103), other, TaskShape(104, 102, 100, 100, files=103),
        ])  # fmt: skip


def test_every_act_says_what_it_does() -> None:
    said = [birth.describe() for shapes in TREES.values() for birth in plan_births(shapes)]
    assert "pid 100: clone3(set_tid): pid 101" in said
    assert "pid 101: exit: it stood in for a task that has ended; pid 100 reaps it" in said


@st.composite
def pasts(draw: st.DrawFn) -> list[TaskShape]:
    """A tree as some random past has left it."""
    kernel = Kernel({ROOT: Task(ROOT, INIT, OUTSIDE, OUTSIDE)})
    for pid in range(ROOT + 1, ROOT + 1 + draw(st.integers(0, 24))):
        actor = draw(st.sampled_from(sorted(task.pid for task in kernel.tasks.values() if not task.dead)))
        try:
            draw_act(draw, kernel, actor, pid)
        except AssertionError:
            continue  # what the kernel does not allow did not happen
    return kernel.shapes()


def draw_act(draw: st.DrawFn, kernel: Kernel, actor: int, pid: int) -> None:
    """Something that `actor` does. `pid` is free."""
    match draw(st.sampled_from(["fork", "fork", "fork", "setsid", "setpgid", "exit", "wait", "subreaper"])):
        case "fork":
            kernel.fork(actor, pid)
        case "setsid":
            kernel.setsid(actor)
        case "setpgid":
            kernel.setpgid(actor, draw(st.sampled_from([actor, *(task.pgid for task in kernel.tasks.values())])))
        case "exit" if actor != ROOT:
            kernel.exit(actor)
        case "wait":
            dead = [task for task in kernel.tasks.values() if task.dead and task.parent in (actor, INIT)]
            for task in dead:
                kernel.wait(task.parent, task.pid)
        case "subreaper":
            kernel.tasks[actor].subreaper = True


@given(pasts())
@settings(max_examples=400, deadline=None)
def test_any_past_is_born_alike_or_refused_by_name(shapes: list[TaskShape]) -> None:
    try:
        assert_born_alike(shapes)
        event("born")
    except Refused as refused:
        event(f"refused: {refused.blockers[0].code}")


def test_a_session_has_its_terminal_before_anybody_is_born_into_it() -> None:
    shapes = [
        TaskShape(ROOT, 0, ROOT, ROOT),
        TaskShape(101, ROOT, 101, 101, terminal=7),
        TaskShape(102, 101, 102, 101),
        TaskShape(103, 101, ROOT, ROOT),
    ]
    acts = [(birth.act, birth.pid, birth.terminal) for birth in plan_births(shapes)]
    taken = acts.index((Act.TERMINAL, 101, 7))
    assert acts.index((Act.FORK, 103, 0)) < acts.index((Act.SETSID, 101, 0)) < taken < acts.index((Act.FORK, 102, 0))
