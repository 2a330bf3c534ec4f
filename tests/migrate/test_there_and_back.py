"""Ten moves there and back in a row of one process leave nothing behind on either side, nor in the process."""

import os
from contextlib import suppress

from tests.hosts import Host
from tests.migrate.moving import Pair, assert_nothing_left, cgroup_of, is_traced, look_at
from tests.waiting import wait_until

MOVES = 10
NAMESPACES = ("pid", "mnt", "net", "ipc", "uts")


def mappings(host: Host, pid: int) -> list[str]:
    """Address, rights and file of each."""
    return host.path(f"/proc/{pid}/maps").read_text().splitlines()


def namespaces(host: Host) -> set[str]:
    """Of every process of the host."""
    folders = [path / "ns" for path in host.path("/proc").iterdir() if path.name.isdigit()]
    found = set()
    for folder in folders:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found |= {os.readlink(folder / name) for name in NAMESPACES}
    return found


def test_ten_moves_there_and_back_leak_nothing(pair: Pair) -> None:
    run = pair.start("timed_waits.c")
    before = [namespaces(host) for host in (pair.a, pair.b)]
    fds = look_at(pair.a, run.pid).fds
    original, moved = mappings(pair.a, run.pid), None
    for number in range(MOVES):
        pair.move(run, back=number % 2 == 1)
        here = pair.a if number % 2 else pair.b
        assert run.early_result() is None
        assert not is_traced(here, run.pid)
        assert look_at(here, run.pid).fds == fds, f"after move {number + 1}"
        moved = moved or mappings(here, run.pid)  # what lay side by side is one mapping from the first move on
        assert mappings(here, run.pid) == moved, f"after move {number + 1}"
        assert len(moved) <= len(original)
        wait_until(lambda host=here: "migrate-" not in cgroup_of(host, run.pid), "nothing holds it")  # type: ignore[misc]
    run.release()
    assert run.result() == "PASS"
    assert_nothing_left([pair.a, pair.b])
    assert [namespaces(host) for host in (pair.a, pair.b)] == before


def test_an_interpreter_with_files_comes_back_as_it_was(pair: Pair) -> None:
    run = pair.start("interpreter_files.py")
    fds = look_at(pair.a, run.pid).fds
    pair.move(run)
    pair.move(run, back=True)
    assert look_at(pair.a, run.pid).fds == fds
    run.release()
    assert run.result() == "PASS"


def test_a_process_whose_first_thread_has_ended_comes_back_too(pair: Pair) -> None:
    run = pair.start("leader_ended.c")
    for back in (False, True):
        said = pair.move(run, back=back)
        assert "SIGSTOP" not in said.text, "a cgroup holds it"
        assert run.early_result() is None
    run.release()
    assert run.result() == "PASS"
    assert_nothing_left([pair.a, pair.b])
