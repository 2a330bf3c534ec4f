"""Drains of made-up fleets from their plan to their end, in which anything fails at any time. The real placement and
the real scheduler decide; every turn is checked against what must never happen. An AssertionError says which.

A coordinator may die between any two of its actions: what it had not done is not done, and the next one decides anew.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from migrate.drain.placement import RESERVE, Candidate, Load, Plan, Wish, plan
from migrate.drain.scheduler import OVER, Begin, Drain, Enter, Leg, Step, Stop, decide, decide_after_hook, hook_before

ENDED = ("done", "failed", "cancelled")
TURNS = 4000
HOME = "home"
MIB = 1 << 20


@dataclass(frozen=True)
class Chances:
    """How likely it is, each turn or each time, that something happens."""

    failing: float = 0.0
    doubt: float = 0.0
    hook: float = 0.0
    dying: float = 0.0
    crash: float = 0.0
    cancel: float = 0.0

    @classmethod
    def any(cls, numbers: random.Random) -> "Chances":
        """Some histories have everything in them, and some nothing."""
        found = [numbers.choice([0.0, 0.0, 0.1, 0.5]) for _ in range(3)]
        return cls(*found, *(numbers.choice([0.0, 0.0, 0.02]) for _ in range(3)))


def make_fleet(numbers: random.Random, hosts: int, loads: int) -> tuple[list[Load], list[Candidate]]:
    """What has to go, and where it might go to."""
    flags = [frozenset({"avx"}), frozenset({"avx", "avx2"}), frozenset({"avx", "avx2"})]
    made = [
        Load(
            pid, "w", numbers.randint(1, 3000) * MIB, numbers.randint(0, 3), numbers.uniform(0, 99),
            numbers.choice([None, None, None, "g", "h"]), numbers.choice([{}, {}, {"disk": "ssd"}]),
            numbers.random() < 0.02, numbers.random() < 0.8,
            frozenset(numbers.choice([(), (), (80, 443), (6379,), (pid,)])),
        )
        for pid in range(1000, 1000 + loads)
    ]  # fmt: skip
    there = [
        Candidate(
            f"h{number}", {"disk": numbers.choice(["ssd", "hdd"])}, numbers.randint(0, 64_000) * MIB,
            numbers.choice(flags), numbers.random() < 0.05, numbers.choice(["", "", "", "", "down"]),
            frozenset(numbers.sample(["g", "h"], numbers.choice([0, 0, 0, 1]))),
            frozenset(numbers.sample(range(1000, 1000 + loads), min(loads, 3))),
            frozenset(numbers.choice([(), (), (443,)])),
        )
        for number in range(hosts)
    ]  # fmt: skip
    return made, there


class History:
    """One drain. `play` goes on to its end; `drain`, `legs`, `place` and `message` then tell how it went."""

    def __init__(self, numbers: random.Random, hosts: int, loads: int, chances: Chances | None = None) -> None:
        self.numbers = numbers
        self.chances = chances if chances is not None else Chances.any(numbers)
        self.loads, self.hosts = make_fleet(numbers, hosts, loads)
        self.now = 0.0
        spans = numbers.choice([None, None, (50.0, numbers.uniform(60, 2000))])
        parallel, each = numbers.randint(1, 6), numbers.randint(1, 3)
        wish = Wish(max_parallel=parallel, max_parallel_per_destination=each, seconds=spans and spans[1] - spans[0])
        source = Candidate(HOME, cpu_flags=frozenset({"avx"}))
        self.plan: Plan = plan(source, self.loads, self.hosts, wish)
        self.drain = Drain(
            "waiting", tuple(Step(move.load.pid, move.destination, move.takes_s) for move in self.plan.moves),
            spans and spans[0], spans and spans[1], parallel, each, numbers.choice(["skip", "stop", "back"]),
            numbers.random() < 0.4,
        )  # fmt: skip
        self.legs: list[Leg] = []
        self.place = {load.pid: HOME for load in self.loads}
        self.dead: set[str] = set()
        self.message = ""
        self.disturbed = False
        assert_plan(self.plan, self.loads, self.hosts)

    def play(self) -> None:
        """To the end, or to where only a person's word is waited for that never comes."""
        for _ in range(TURNS):
            self._coordinate()
            self._check()
            if self.drain.state in ENDED:
                return self._check_end()
            self._let_time_pass()
        raise AssertionError(f"never ends: {self.drain.state} {self.legs}")

    def _coordinate(self) -> None:
        """What one coordinator does before another, or the same, decides anew."""
        names = [HOME, *(host.name for host in self.hosts)]
        busy = Counter({name: 1 for name in names if self.numbers.random() < 0.1})
        self.drain = replace(self.drain, busy=busy)
        for action in decide(self.drain, HOME, self.legs, self.now):
            if self.numbers.random() < self.chances.crash:
                return
            match action:
                case Begin():
                    self._begin(action)
                case Stop(migration_id):
                    wins = self.numbers.random() < 0.7  # else it is through before it hears of it
                    self._end_leg(migration_id, "cancelled" if wins else "done")
                case Enter():
                    self._enter(action)

    def _begin(self, begin: Begin) -> None:
        name = f"{begin.leg}-{begin.source}-{begin.pid}"
        pid = self._pid_at_home(begin.pid)
        assert name not in {leg.id for leg in self.legs}, f"{name}: begun twice"
        assert self.place[pid] == begin.source, f"{name}: is not there but at {self.place[pid]}"
        assert not any(self._pid_at_home(leg.pid) == pid and leg.state not in OVER for leg in self.legs), (
            f"{name}: moves"
        )
        assert begin.destination != begin.source and not self.drain.cancel
        if begin.leg == "away":
            [step] = [step for step in self.drain.steps if step.pid == pid]
            assert begin.destination == step.destination
            assert self.drain.closes_at is None or self.now + step.takes_s <= self.drain.closes_at, "ends too late"
            wrong = [leg for leg in self.legs if leg.went_wrong]
            assert self.drain.on_failure == "skip" or not wrong, "goes on after a failure"
        else:
            assert begin.destination == HOME
        self.legs.append(Leg(name, begin.leg, begin.source, begin.pid, begin.destination, "running"))

    def _enter(self, enter: Enter) -> None:
        before, hook = self.drain.state, hook_before(self.drain.state, enter.state)
        if hook is not None and self.numbers.random() < self.chances.hook / 4:
            self.disturbed = True
            enter = decide_after_hook(before, enter, self.drain.on_failure, f"hook {hook[0]} failed")
        running = [leg for leg in self.legs if leg.state not in (*OVER, "in_doubt")]
        assert enter.state in ("running", "returning") or not running, f"{enter.state} while {running} run"
        self.drain, self.message = replace(self.drain, state=enter.state), enter.message

    def _let_time_pass(self) -> None:
        """Time, and all that it brings: ends of legs, deaths of hosts, words of people."""
        self.now += self.numbers.uniform(0.1, 20)
        for leg in self.legs:
            if leg.state == "running" and ({leg.source, leg.destination} & self.dead or self.numbers.random() < 0.4):
                self._end_leg(leg.id, self._fate(leg))
            elif leg.state == "in_doubt" and self.numbers.random() < 0.1:
                self._end_leg(leg.id, self.numbers.choice(["done", "failed"]))
        if self.numbers.random() < self.chances.dying:
            self.dead.add(self.numbers.choice(self.hosts).name)
        if self.numbers.random() < self.chances.cancel and not self.drain.cancel:
            self.drain = replace(self.drain, cancel=self.numbers.choice(["finish", "abort"]))
            self.disturbed = True
        if self.drain.state == "away" and self.numbers.random() < 0.3:
            self.drain = replace(self.drain, return_asked=True)

    def _fate(self, leg: Leg) -> str:
        if {leg.source, leg.destination} & self.dead:
            return self.numbers.choice(["failed", "in_doubt", "refused"])
        if self.numbers.random() < self.chances.doubt / 4:
            return "in_doubt"
        return (
            self.numbers.choice(["failed", "refused", "cancelled"])
            if self.numbers.random() < self.chances.failing / 2
            else "done"
        )

    def _end_leg(self, name: str, state: str) -> None:
        [index] = [number for number, leg in enumerate(self.legs) if leg.id == name]
        leg = self.legs[index]
        pid = self._pid_at_home(leg.pid)
        if state == "done":
            self.place[pid] = leg.destination
        hook = state == "done" and self.numbers.random() < self.chances.hook / 4
        self.disturbed = self.disturbed or state != "done" or hook
        there = leg.pid if leg.pid % 2 or leg.leg == "back" else leg.pid + 100_000  # some get another PID over there
        self.legs[index] = replace(leg, state=state, moved_pid=there, hook_failed=hook)

    def _pid_at_home(self, pid: int) -> int:
        return pid % 100_000

    def _check(self) -> None:
        running = [leg for leg in self.legs if leg.state not in (*OVER, "in_doubt")]
        assert len(running) <= self.drain.max_parallel, "more at once than asked for"
        counts = Counter(leg.destination for leg in running)
        assert all(count <= self.drain.max_parallel_per_destination for count in counts.values()), counts

    def _check_end(self) -> None:
        assert self.message, "ends without a word"
        assert all(self.place[one.load.pid] == HOME for one in self.plan.stays), "what had no place went somewhere"
        for leg in self.legs:
            assert leg.state in (*OVER, "in_doubt")
        if self.drain.state == "cancelled" and not self.drain.cancel:
            assert any(leg.state == "cancelled" for leg in self.legs), "cancelled by nobody"
            assert not any(leg.failed for leg in self.legs), self.message
        if self.drain.state == "done":
            assert not any(leg.went_wrong for leg in self.legs), self.message
        if not self.disturbed and self.drain.closes_at is None:
            wanted = HOME if self.drain.and_back else None
            moved = {move.load.pid: move.destination for move in self.plan.moves}
            assert self.drain.state == "done", self.message
            assert all(self.place[pid] == (wanted or there) for pid, there in moved.items())


def assert_plan(found: Plan, loads: Sequence[Load], hosts: Sequence[Candidate]) -> None:
    """Everything is in it once; no host gets what it has no room for, may not have, or has already."""
    in_plan = [*(move.load.pid for move in found.moves), *(one.load.pid for one in found.stays)]
    assert sorted(in_plan) == sorted(load.pid for load in loads)
    assert all(one.reason and one.hint for one in found.stays)
    by_host: dict[str, list[Load]] = {}
    for move in found.moves:
        by_host.setdefault(move.destination, []).append(move.load)
    for host in hosts:
        here = by_host.get(host.name, [])
        assert not here or not (host.cordoned or host.unreachable), f"{host.name} takes nothing"
        assert sum(int(load.memory_bytes * RESERVE) for load in here) <= host.free_bytes, f"{host.name}: memory"
        groups = [load.apart for load in here if load.apart] + list(host.groups)
        assert len(groups) == len(set(groups)), f"{host.name}: two of a group"
        assert not any(load.keeps_pid and load.pid in host.pids for load in here), f"{host.name}: PID"
        ports = [port for load in here for port in load.ports] + list(host.ports)
        assert len(ports) == len(set(ports)), f"{host.name}: two listen on one port"
        assert all(host.labels.get(key) == value for load in here for key, value in load.needs.items())
        assert not any(load.never_move for load in here)
