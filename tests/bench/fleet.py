"""A large fleet on paper: how long a plan takes as it grows, and whether a thousand random histories break a rule."""

import random
import time

from migrate.drain.placement import Candidate, Wish, plan
from migrate.fleet.hosts import candidate_of, workloads_of
from migrate.fleet.inventory import Selector
from migrate.fleet.store import Row
from tests.bench.sheet import Scale, Sheet
from tests.fakes.drain_history import History, assert_plan, make_fleet

EACH = 20  # workloads for every host
SELECTORS = [Selector(name=f"s{number}", command=f"*program-{number}*") for number in range(10)]


def measure(scale: Scale, sheet: Sheet) -> None:
    """Plans of a quarter, half and all of scale.fleet_hosts, then scale.histories drains."""
    for _ in range(min(scale.runs, 3)):
        seconds = [_plan(hosts, sheet) for hosts in (scale.fleet_hosts // 2, scale.fleet_hosts)]
        sheet.ratio("a plan for twice as many", seconds[1], seconds[0])
        _look(scale.fleet_hosts, sheet)
    began, legs = time.monotonic(), 0
    for seed in range(scale.histories):
        numbers = random.Random(seed)
        history = History(numbers, hosts=numbers.randint(1, 30), loads=numbers.randint(1, 60))
        history.play()
        legs += len(history.legs)
    sheet.add("random histories without a broken rule", "", scale.histories)
    sheet.add("migrations in them", "", legs)
    sheet.ms("a history", (time.monotonic() - began) / scale.histories)


def _plan(hosts: int, sheet: Sheet) -> float:
    loads, there = make_fleet(random.Random(hosts), hosts, EACH * hosts)
    wish = Wish(max_parallel=64, max_parallel_per_destination=2)
    began = time.monotonic()
    found = plan(Candidate("home", cpu_flags=frozenset({"avx"})), loads, there, wish)
    seconds = time.monotonic() - began
    assert_plan(found, loads, there)
    sheet.ms(f"{hosts:,} hosts, {len(loads):,} workloads: a plan", seconds)
    return seconds


def _look(hosts: int, sheet: Sheet) -> None:
    """What a plan needs to know, out of what the hosts have told."""
    rows = [_row(number) for number in range(hosts)]
    began = time.monotonic()
    found = [candidate_of(row, SELECTORS) for row in rows]
    workloads = sum(len(workloads_of(row, SELECTORS)) for row in rows)
    sheet.ms(f"{len(found):,} hosts, {workloads:,} workloads: found among their processes", time.monotonic() - began)


def _row(number: int) -> Row:
    processes = [
        {
            "pid": pid, "ppid": 1, "start_time": 7, "user": "root", "command": f"/usr/bin/program-{pid % 10} {pid}",
            "cgroup": "/", "unit": "", "memory_bytes": 1 << 24, "faults_per_s": 1.0,
        }
        for pid in range(number * EACH, (number + 1) * EACH)
    ]  # fmt: skip
    facts = {"memory_available": 1 << 36, "cpu_flags": ["avx"], "processes": processes}
    return {"name": f"h{number}", "labels": {}, "facts": facts, "unreachable": "", "cordoned": False}
