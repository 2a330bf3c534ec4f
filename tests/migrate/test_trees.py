"""Trees of processes move to another host whole, once and twice in a row, and leave nothing behind."""

from dataclasses import replace

import pytest

from tests.memory_total import pss_bytes
from tests.migrate.moving import Pair, assert_nothing_left, processes
from tests.program_build import Program, discover, find
from tests.waiting import wait_until

TWICE = {
    "tree_terminal.py", "tree_orphans.c", "tree_zombies.c", "tree_shared_files.c", "tree_shared_sysv.c",
    "tree_ipc_namespace.c", "tree_leader_ended.c", "tree_shared_mm.c",
}  # fmt: skip
TREES = [
    one
    for one in discover()
    if one.name.startswith("tree_") and not one.later and one.name not in TWICE
    and "--file-locks" not in one.dump  # what is locked on a file system of both hosts is refused
]  # fmt: skip


@pytest.mark.parametrize("program", TREES, ids=lambda program: program.name)
def test_tree_passes_on_the_other_host(program: Program, pair: Pair) -> None:
    run = pair.start(program)
    before = processes(pair.a, str(run.scratch_dir))
    pair.move(run, "--max-downtime", "5s")
    assert processes(pair.a, str(run.scratch_dir)) == []
    if "forking" not in program.tags:
        assert processes(pair.b, str(run.scratch_dir)) == before
    run.release()
    assert run.result() == "PASS"
    wait_until(lambda: not processes(pair.b, str(run.scratch_dir)), "all of it ended by itself")


@pytest.mark.parametrize("name", sorted(TWICE))
def test_tree_passes_after_two_moves(name: str, pair: Pair) -> None:
    run = pair.start(name)
    before = processes(pair.a, str(run.scratch_dir))
    pair.move(run, "--max-downtime", "5s")
    pair.move(run, "--max-downtime", "5s", back=True)
    assert processes(pair.a, str(run.scratch_dir)) == before
    run.release()
    assert run.result() == "PASS"


def test_all_those_moves_left_nothing_behind(pair: Pair) -> None:
    assert_nothing_left([pair.a, pair.b])


def test_what_children_share_with_their_parent_travels_once_and_stays_shared(pair: Pair) -> None:
    size_bytes, children = 32 << 20, 12
    run = pair.start(replace(find("tree_cow_many.c"), args=(str(size_bytes >> 20), str(children))))
    before = pss_bytes(pair.a, processes(pair.a, str(run.scratch_dir)))
    said = pair.move(run, "--compress", "none", "--json", "--max-downtime", "5s")
    after = pss_bytes(pair.b, processes(pair.b, str(run.scratch_dir)))
    assert after == pytest.approx(before, rel=0.05), said.text
    assert said.event("done")["sent_bytes"] < 1.1 * before
    run.release()
    assert run.result() == "PASS"
