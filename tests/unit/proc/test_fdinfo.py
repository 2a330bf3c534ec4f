"""fdinfo of every kind of descriptor, by value."""

import pytest

from core.errors import CollectError
from core.proc.fdinfo import EpollTarget, FileLock, Timerfd, parse_fdinfo

COMMON = "pos:\t17\nflags:\t02100002\nmnt_id:\t15\nino:\t1057\n"


def test_a_regular_file_with_locks() -> None:
    found = parse_fdinfo(COMMON + "lock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF\n"
                         "lock:\t2: POSIX  ADVISORY  READ 359 fe:00:7 10 19\n")  # fmt: skip
    assert (found.pos, found.flags, found.mnt_id, found.ino) == (17, 0o2100002, 15, 1057)
    assert found.locks == (
        FileLock("FLOCK", "ADVISORY", "WRITE", 359, 11691, 0, None),
        FileLock("POSIX", "ADVISORY", "READ", 359, 7, 10, 19),
    )


def test_an_old_kernel_writes_neither_inode_nor_semaphore() -> None:
    found = parse_fdinfo("pos:\t0\nflags:\t02\nmnt_id:\t9\neventfd-count:               1f\n")
    assert (found.ino, found.eventfd_count, found.eventfd_semaphore) == (None, 31, None)


def test_an_eventfd_of_a_new_kernel() -> None:
    found = parse_fdinfo(COMMON + "eventfd-count:                5\neventfd-id: 1\neventfd-semaphore: 1\n")
    assert (found.eventfd_count, found.eventfd_semaphore, found.lines) == (5, True, ("eventfd-id: 1",))


def test_epoll_targets_with_and_without_inode() -> None:
    old = "tfd:        5 events:       1d data: ffffffffffffffff\n"
    new = "tfd:        6 events:       19 data:                6  pos:0 ino:61af sdev:7\n"
    assert parse_fdinfo(COMMON + old + new).epoll_targets == (
        EpollTarget(5, 0x1D, 0xFFFFFFFFFFFFFFFF),
        EpollTarget(6, 0x19, 6, 0, 0x61AF, 7),
    )


def test_a_timerfd_in_nanoseconds() -> None:
    text = "clockid: 1\nticks: 2\nsettime flags: 01\nit_value: (1, 49406829)\nit_interval: (0, 5)\n"
    assert parse_fdinfo(COMMON + text).timerfd == Timerfd(1, 2, 1, 1_049_406_829, 5)


def test_signalfd_and_pidfd() -> None:
    assert parse_fdinfo(COMMON + "sigmask:\t0000000000000204\n").signalfd_mask == 0x204
    assert parse_fdinfo(COMMON + "Pid:\t812\nNSpid:\t812\n").pidfd_pid == 812


def test_what_has_no_field_is_kept_as_written() -> None:
    line = "inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8"
    assert parse_fdinfo(COMMON + line + "\n").lines == (line,)


@pytest.mark.parametrize(
    "line",
    ["tfd: x events: 1 data: 2", "lock: 1: FLOCK", "it_value: 5", "sigmask:\tzz"],
)
def test_malformed_lines_are_named(line: str) -> None:
    with pytest.raises(CollectError) as caught:
        parse_fdinfo(COMMON + line, "/proc/812/fdinfo/3")
    assert caught.value.subject == "/proc/812/fdinfo/3 line 5"


def test_a_record_without_position_is_refused() -> None:
    with pytest.raises(CollectError, match="no pos and flags"):
        parse_fdinfo("flags:\t02\n")
