"""Seccomp chains: each filter once, common ones for all threads at a time, none that asks another process."""

import pytest

from core.errors import ImageError
from core.images.pb.core_pb2 import SECCOMP_FILTER, SECCOMP_STRICT, SeccompMode, ThreadCoreEntry
from core.images.pb.seccomp_pb2 import SeccompEntry, SeccompFilter
from core.resources.seccomp import (
    FLAG_LOG,
    FLAG_SPEC_ALLOW,
    FLAG_TSYNC,
    INSTRUCTION,
    Filters,
    chain_to,
    common_prefix,
    judge,
    plan_all,
)

ALLOW = INSTRUCTION.pack(0x06, 0, 0, 0x7FFF0000)
KILL = INSTRUCTION.pack(0x06, 0, 0, 0)
NOTIFY = INSTRUCTION.pack(0x06, 0, 0, 0x7FC00000)


def thread(filter: int | None = None, mode: SeccompMode = SECCOMP_FILTER) -> ThreadCoreEntry:
    return ThreadCoreEntry(futex_rla=0, futex_rla_len=0, seccomp_mode=mode, seccomp_filter=filter)


def chain_of_two() -> Filters:
    filters = Filters()
    filters.add(filters.add(None, ALLOW, 0), KILL, FLAG_LOG)
    return filters


def test_the_same_chain_is_in_the_image_once() -> None:
    filters = chain_of_two()
    assert filters.add(filters.add(None, ALLOW, 0), KILL, FLAG_LOG) == 1
    assert len(filters.entry.seccomp_filters) == 2
    assert filters.add(None, KILL, FLAG_LOG) == 2


def test_a_chain_is_told_from_the_first_installed_on() -> None:
    assert chain_to(chain_of_two().entry, 1) == (0, 1)


def test_a_chain_that_bites_its_tail_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="comes after itself"):
        chain_to(SeccompEntry(seccomp_filters=[SeccompFilter(filter=ALLOW, prev=0)]), 0)


def test_what_all_chains_begin_with_is_common() -> None:
    assert common_prefix([(0, 1), (0, 1, 2), (0, 1, 3)]) == (0, 1)
    assert common_prefix([(0, 1), ()]) == ()
    assert common_prefix([]) == ()


def test_common_filters_are_installed_once_for_all_threads() -> None:
    programs = plan_all(chain_of_two().entry, {7: thread(0), 8: thread(1)}, 7)
    assert [op.args[1] for op in programs[7]] == [FLAG_TSYNC | FLAG_SPEC_ALLOW]
    assert [op.args[1] for op in programs[8]] == [FLAG_SPEC_ALLOW | FLAG_LOG]


def test_a_leader_that_is_to_end_installs_what_the_others_have_in_common() -> None:
    programs = plan_all(chain_of_two().entry, {8: thread(0)}, 7)
    assert [op.args[1] for op in programs[7]] == [FLAG_TSYNC | FLAG_SPEC_ALLOW] and programs[8] == ()
    assert plan_all(SeccompEntry(), {8: thread(mode=SECCOMP_STRICT)}, 7)[7] == ()


def test_strict_mode_is_set_in_its_thread_alone() -> None:
    programs = plan_all(
        SeccompEntry(), {7: thread(mode=SeccompMode.Value("SECCOMP_DISABLED")), 8: thread(mode=SECCOMP_STRICT)}, 7
    )
    assert programs[7] == () and [op.name for op in programs[8]] == ["prctl"]


def test_a_filter_that_asks_another_process_is_named() -> None:
    assert "USER_NOTIF" in judge(ALLOW + NOTIFY)
    assert judge(ALLOW + KILL) == ""
