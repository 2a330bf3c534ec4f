"""Processes of every kind move to another host and find there all that they had."""

import pytest

from tests.hosts import Host
from tests.migrate.moving import Pair, assert_nothing_left
from tests.program_build import Program, discover
from tests.waiting import wait_until

# One of each kind of state; the round trips in tests/roundtrip have all of them.
SAMPLE = {
    "aio.c", "alt_stack.c", "blocked_accept.c", "blocked_epoll.c", "blocked_futex.c", "blocked_messages.c",
    "blocked_nanosleep.c", "comm.c", "creds_nobody.c", "cwd.c", "directory_position.c", "dup_shared_offset.c",
    "epoll_targets.c", "eventfd.c", "file_append.c", "file_deleted.c", "file_mapping_private.c",
    "file_mapping_shared.c", "inotify.c", "interpreter_files.py", "listen_tcp4.c", "listen_unix_path.c",
    "memory_many_vmas.c", "pipe_full.c", "process_vectors.c", "rlimits.c", "signal_masks.c", "signalfd.c", "timerfd.c",
}  # fmt: skip
PROGRAMS = [one for one in discover() if not one.later and ("live" in one.tags or one.name in SAMPLE)]


def test_the_sample_is_of_programs_that_there_are() -> None:
    assert {program.name for program in discover()} >= SAMPLE


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_program_passes_on_the_other_host(program: Program, pair: Pair) -> None:
    run = pair.start(program)
    pair.move(run)
    assert run.early_result() is None
    run.release()
    assert run.result() == "PASS"
    wait_until(lambda: not pair.b.alive(run.pid), "it ended by itself")


def test_system_v_queues_and_semaphores_are_where_the_program_is_and_nowhere_else(pair: Pair) -> None:
    def number_of(host: Host) -> int:
        return sum("0x4d" in host.run(["ipcs", kind]).stdout for kind in ("-q", "-s"))

    run = pair.start("sysv_ipc.c")
    pair.move(run)
    assert (number_of(pair.a), number_of(pair.b)) == (0, 2)
    pair.move(run, back=True)
    assert (number_of(pair.a), number_of(pair.b)) == (2, 0)
    run.release()
    assert run.result() == "PASS"


def test_posix_message_queues_are_where_the_program_is_and_nowhere_else(pair: Pair) -> None:
    def names(host: Host) -> list[str]:
        shown = "mount -t mqueue none /mnt && ls /mnt; umount /mnt"
        return [one for one in host.run(["sh", "-c", shown]).stdout.splitlines() if one.startswith("migrate")]

    run = pair.start("mqueue.c")
    before = names(pair.a)
    assert len(before) == 2
    pair.move(run)
    assert (names(pair.a), names(pair.b)) == ([], before)
    pair.move(run, back=True)
    assert (names(pair.a), names(pair.b)) == (before, [])
    run.release()
    assert run.result() == "PASS"


def test_all_those_moves_left_nothing_behind(pair: Pair) -> None:
    assert_nothing_left([pair.a, pair.b])
