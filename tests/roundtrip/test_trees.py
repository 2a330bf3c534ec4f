"""Every tree of processes survives dump and restore by the command line, on a host whose init reaps."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hosts import Host, make_hosts
from tests.memory_total import pss_bytes
from tests.program_build import ENVIRONMENT, Program, Run, discover, find
from tests.requires import require_root
from tests.waiting import wait_until

TREES = [program for program in discover() if program.name.startswith("tree_") and not program.later]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same directory inside and outside of the host."""
    return tmp_path_factory.mktemp("trees")


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[Host]:
    """One host for all trees of this module."""
    require_root()
    with make_hosts("host-a", binds={str(folder): str(folder)}) as (made,):
        yield made


def start(program: Program, host: Host, folder: Path) -> Run:
    """As a service of `host`, ready."""
    run = program.start(folder, lambda argv: host.start(argv, env=ENVIRONMENT))
    run.wait_ready()
    return run


def pids_of(host: Host, run: Run) -> set[int]:
    """Everything that still has the program's name: none of it forks after ready, but for those that say so."""
    listed = host.run(["ps", "-eo", "pid=,args="]).stdout.splitlines()
    return {int(line.split()[0]) for line in listed if str(run.scratch_dir) in line}


@pytest.mark.parametrize("program", TREES, ids=lambda program: program.name)
def test_tree_passes_after_dump_and_restore(program: Program, host: Host, folder: Path) -> None:
    images = str(folder / f"{program.name}.images")
    run = start(program, host, folder / program.name)
    before = pids_of(host, run) | pids_of(host, run)  # who just executes a program has no arguments for a moment
    host.run(["mkdir", images])
    host.run(["migrate", "dump", "-t", str(run.pid), "-D", images, *program.dump])
    wait_until(lambda: not host.alive(run.pid) and not pids_of(host, run), "the whole tree has ended")
    host.run(["migrate", "restore", "-D", images, "-d"])
    if "forking" not in program.tags:
        wait_until(lambda: pids_of(host, run) == before, "the whole tree is there")
    run.release()
    assert run.result() == "PASS"
    wait_until(lambda: not pids_of(host, run), "all of it ended by itself")


@pytest.mark.parametrize("name", ["tree_forking.c", "tree_vfork.c", "tree_exec.c", "tree_stopped.c", "tree_zombies.c"])
def test_tree_runs_on_undisturbed_after_leave_running(name: str, host: Host, folder: Path) -> None:
    program = find(name)
    images = str(folder / f"{program.name}.running")
    run = start(program, host, folder / f"{program.name}.left")
    host.run(["mkdir", images])
    host.run(["migrate", "dump", "-t", str(run.pid), "-D", images, "--leave-running"])
    run.release()
    assert run.result() == "PASS"


def test_what_children_share_with_their_parent_stays_shared(host: Host, folder: Path) -> None:
    images = str(folder / "many.images")
    run = start(replace(find("tree_cow_many.c"), args=("16", "8")), host, folder / "many")
    before = pss_bytes(host, pids_of(host, run))
    host.run(["mkdir", images])
    host.run(["migrate", "dump", "-t", str(run.pid), "-D", images, "--leave-running"])
    assert pss_bytes(host, pids_of(host, run)) == pytest.approx(before, rel=0.05)
    host.run(["migrate", "dump", "-t", str(run.pid), "-D", images])
    wait_until(lambda: not pids_of(host, run), "the whole tree has ended")
    host.run(["migrate", "restore", "-D", images, "-d"])
    assert pss_bytes(host, pids_of(host, run)) == pytest.approx(before, rel=0.05)
    run.release()
    assert run.result() == "PASS"
