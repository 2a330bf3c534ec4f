"""Where workloads go: nothing is put where it may not be, and nothing is left out without a reason."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.drain.placement import ASKED_AT_MOST, OF_A_KIND, RESERVE, Candidate, Load, Plan, Wish, plan
from migrate.fleet.drains import plan_all

GIB = 1 << 30
SOURCE = Candidate("source", cpu_flags=frozenset({"avx"}))


def host(name: str, **changes: object) -> Candidate:
    given_: dict[str, object] = {"free_bytes": 4 * GIB, "cpu_flags": frozenset({"avx", "avx2"}), **changes}
    return Candidate(name, **given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("there", "load", "wish", "reason"),
    [
        (host("b", cordoned=True), Load(1, "w", GIB), Wish(), "cordoned"),
        (host("b", unreachable="no route"), Load(1, "w", GIB), Wish(), "no route"),
        (host("b", free_bytes=GIB), Load(1, "w", GIB), Wish(), "MiB"),
        (host("b", cpu_flags=frozenset()), Load(1, "w", GIB), Wish(), "avx"),
        (host("b"), Load(1, "w", GIB, needs={"disk": "ssd"}), Wish(), "labels"),
        (host("b"), Load(1, "w", GIB), Wish(to_labels={"rack": "x"}), "labels"),
        (host("b"), Load(1, "w", GIB), Wish(to=("c",)), "destinations"),
        (host("b", groups=frozenset({"g"})), Load(1, "w", GIB, apart="g"), Wish(), "group g"),
        (host("b", pids=frozenset({1})), Load(1, "w", GIB), Wish(), "PID 1"),
        (host("b", ports=frozenset({80})), Load(1, "w", GIB, ports=frozenset({80, 443})), Wish(), "port 80"),
        (host("b"), Load(1, "w", GIB, never_move=True), Wish(), "never_move"),
        (host("b"), Load(1, "w", 2 * GIB), Wish(seconds=5.0), "window"),
    ],
)
def test_what_has_no_place_stays_with_the_reason(there: Candidate, load: Load, wish: Wish, reason: str) -> None:
    found = plan(SOURCE, [load], [SOURCE, there], wish)
    assert found.moves == ()
    assert reason in found.stays[0].reason and found.stays[0].hint


def test_a_host_that_preflight_refuses_is_passed_over_and_named() -> None:
    load = Load(1, "w", GIB, refused={"b": "fd 3: is missing there"})
    assert [
        move.destination for move in plan(SOURCE, [load], [host("b"), host("c", free_bytes=2 * GIB)], Wish()).moves
    ] == ["c"]
    [stays] = plan(SOURCE, [load], [host("b")], Wish()).stays
    assert "b: fd 3: is missing there" in stays.reason


def test_instructions_that_a_workload_does_without_are_no_reason() -> None:
    lacking = host("b", cpu_flags=frozenset())
    assert (
        plan(SOURCE, [Load(1, "w", GIB, any_instructions=True), Load(2, "w", GIB)], [lacking], Wish()).moves[0].load.pid
        == 1
    )
    assert len(plan(SOURCE, [Load(1, "w", GIB, any_instructions=True)], [lacking], Wish()).moves) == 1


def test_what_is_settled_keeps_its_host_and_its_turn() -> None:
    """Though the other is more urgent, and that host the emptier one."""
    loads = [Load(1, "w", GIB, settled="c"), Load(2, "w", GIB, priority=9), Load(3, "w", GIB, settled="gone")]
    found = plan(SOURCE, loads, [host("b"), host("c", free_bytes=int(1.2 * GIB))], Wish(max_parallel=1))
    assert {move.load.pid: move.destination for move in found.moves} == {1: "c", 2: "b", 3: "b"}
    assert min(found.moves, key=lambda move: move.begins_s).load.pid == 2


def test_what_is_settled_makes_room_where_more_have_a_place_then() -> None:
    port = frozenset({6379})
    urgent = Load(1, "w", GIB, priority=9, ports=port, refused={"b": "a file is missing"})
    loads, hosts = [urgent, Load(2, "w", GIB, ports=port, settled="c")], [host("b"), host("c")]
    assert len(plan(SOURCE, loads, hosts, Wish()).stays) == 1
    found = plan_all(SOURCE, loads, hosts, Wish())
    assert {move.load.pid: move.destination for move in found.moves} == {1: "c", 2: "b"}


def test_enough_refusals_are_enough() -> None:
    load = Load(1, "w", GIB, refused={f"b{number}": f"reason {number}" for number in range(ASKED_AT_MOST)})
    [stays] = plan(SOURCE, [load], [host("c")], Wish()).stays
    assert all(f"b{number}: reason {number}" in stays.reason for number in range(ASKED_AT_MOST))


def test_another_pid_is_good_enough_for_who_says_so() -> None:
    load = Load(1, "w", GIB, keeps_pid=False)
    assert plan(SOURCE, [load], [host("b", pids=frozenset({1}))], Wish()).moves


@pytest.mark.parametrize("count", [3, 3 * OF_A_KIND])
def test_two_that_listen_on_one_port_go_to_two_hosts(count: int) -> None:
    loads = [Load(number, "w", 1, ports=frozenset({6379})) for number in range(1, count + 1)]
    found = plan(SOURCE, loads, [host("b"), host("c"), host("d", ports=frozenset({6379}))], Wish())
    assert sorted(move.destination for move in found.moves) == ["b", "c"]
    assert len(found.stays) == count - 2 and all("port 6379" in one.reason for one in found.stays)


def test_two_of_a_group_go_to_two_hosts() -> None:
    loads = [Load(number, "w", GIB, apart="g") for number in range(1, 4)]
    found = plan(SOURCE, loads, [host("b"), host("c")], Wish())
    assert sorted(move.destination for move in found.moves) == ["b", "c"] and len(found.stays) == 1


@pytest.mark.parametrize(("order", "first"), [("priority", 3), ("size", 2), ("dirty-rate", 1)])
def test_the_order_asked_for_says_who_goes_first(order: str, first: int) -> None:
    loads = [Load(1, "w", GIB, 0, 1.0), Load(2, "w", 2 * GIB, 0, 9.0), Load(3, "w", GIB, 7, 5.0)]
    wish = Wish(order=order, max_parallel=1)  # type: ignore[arg-type]
    found = plan(SOURCE, loads, [host("b")], wish)
    assert min(found.moves, key=lambda move: move.begins_s).load.pid == first


def test_half_the_bandwidth_takes_about_twice_as_long() -> None:
    def takes(rate: float) -> float:
        return plan(SOURCE, [Load(1, "w", GIB)], [host("b")], Wish(bytes_per_s=rate, max_parallel=1)).takes_s

    assert takes(1e7) == pytest.approx(2 * takes(2e7), rel=0.1)


LOADS = st.lists(
    st.builds(
        Load, st.integers(1, 30), st.just("w"), st.integers(1, 3 * GIB), st.integers(0, 3), st.floats(0, 9),
        st.sampled_from([None, "g", "h"]), st.just({}), st.booleans(), st.booleans(),
    ),
    max_size=12, unique_by=lambda load: load.pid,
)  # fmt: skip
HOSTS = st.lists(
    st.builds(
        Candidate, st.sampled_from("abcdefgh"), st.just({}), st.integers(0, 8 * GIB),
        st.sampled_from([frozenset({"avx"}), frozenset[str]()]), st.booleans(), st.sampled_from(["", "", "down"]),
        st.sampled_from([frozenset[str](), frozenset({"g"})]), st.frozensets(st.integers(1, 30), max_size=4),
    ),
    max_size=6, unique_by=lambda one: one.name,
)  # fmt: skip


@given(loads=LOADS, hosts=HOSTS, parallel=st.integers(1, 3), each=st.integers(1, 2))
def test_no_plan_breaks_a_rule(loads: list[Load], hosts: list[Candidate], parallel: int, each: int) -> None:
    found = plan(SOURCE, loads, hosts, Wish(max_parallel=parallel, max_parallel_per_destination=each))
    by_name = {one.name: one for one in hosts}
    assert Counter(load.pid for load in loads) == Counter(
        [*(move.load.pid for move in found.moves), *(one.load.pid for one in found.stays)]
    )
    for name, there in by_name.items():
        here = [move.load for move in found.moves if move.destination == name]
        assert sum(int(load.memory_bytes * RESERVE) for load in here) <= there.free_bytes
        groups = [load.apart for load in here if load.apart] + list(there.groups)
        assert len(groups) == len(set(groups))
        assert not here or not (there.cordoned or there.unreachable or SOURCE.cpu_flags - there.cpu_flags)
        assert not any(load.keeps_pid and load.pid in there.pids for load in here)
    assert_within_limits(found, parallel, each)


def assert_within_limits(found: Plan, parallel: int, each: int) -> None:
    for move in found.moves:
        under_way = [other for other in found.moves if other.begins_s <= move.begins_s < other.begins_s + other.takes_s]
        assert len(under_way) <= parallel
        assert sum(other.destination == move.destination for other in under_way) <= each
