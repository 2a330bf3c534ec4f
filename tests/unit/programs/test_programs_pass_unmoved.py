"""Every program passes when nothing happens to it, and fails when its state really is disturbed."""

import ctypes
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.program_build import Program, Run, discover, discover_all, find
from tests.requires import require
from tests.waiting import wait_until

PIDFD_GETFD = 438
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def scratch_dir() -> Iterator[Path]:
    """Short, because the path of a UNIX socket in it has to be."""
    with tempfile.TemporaryDirectory(prefix="p", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.mark.parametrize("program", discover(), ids=lambda program: program.name)
def test_program_passes_unmoved(program: Program, scratch_dir: Path) -> None:
    missing = program.missing()
    require(not missing, f"{program.name} requires {', '.join(missing)}")
    with program.start(scratch_dir) as run:
        run.wait_ready()
        run.release()
        assert run.result() == "PASS"
        assert run.process is not None and run.process.wait(10) == 0


def test_only_a_cpu_feature_leaves_a_program_out() -> None:
    left_out = {program.name for program in discover_all()} - {program.name for program in discover()}
    assert left_out <= {"avx.c", "avx512.c", "pkru.c", "memory_above_47.c"}


def borrowed_fd(pid: int, number: int) -> int:
    """A descriptor of ours for the open file behind descriptor `number` of `pid`: one shared position."""
    pidfd = os.pidfd_open(pid)
    try:
        fd = int(libc.syscall(PIDFD_GETFD, pidfd, number, 0))
    finally:
        os.close(pidfd)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return fd


def through_fd(which: Callable[[str], bool], act: Callable[[int], object]) -> Callable[[int], None]:
    """Does `act` to the first descriptor of the program whose link satisfies `which`."""

    def disturb(pid: int) -> None:
        links = sorted((int(entry.name), os.readlink(entry)) for entry in Path(f"/proc/{pid}/fd").iterdir())
        fd = borrowed_fd(pid, next(number for number, link in links if which(link)))
        try:
            act(fd)
        finally:
            os.close(fd)

    return disturb


def overwrite_largest_mapping(pid: int) -> None:
    rows = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    spans = [tuple(int(end, 16) for end in row[0].split("-")) for row in rows if len(row) == 5]
    start, end = max(spans, key=lambda span: span[1] - span[0])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek((start + end) // 2)
        memory.write(b"disturbed")


def lower_fsize(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def interrupt_all_threads(pid: int) -> None:
    for tid in os.listdir(f"/proc/{pid}/task"):
        if int(tid) != pid and libc.syscall(234, pid, int(tid), signal.SIGUSR1) < 0:  # tgkill
            raise OSError(ctypes.get_errno(), "tgkill")
        # Else it would be one with that of release().
        wait_until(lambda tid=tid: not is_pending(pid, tid, signal.SIGUSR1), "the signal was taken")  # type: ignore[misc]


def is_pending(pid: int, tid: str, number: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/task/{tid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has taken it, and ended
        return False
    return bool(int(status.split("SigPnd:")[1].split()[0], 16) >> (number - 1) & 1)


DISTURBANCES: dict[str, Callable[[int], None]] = {
    "file_position.c": through_fd(lambda link: link.endswith("/file"), lambda fd: os.lseek(fd, 1, os.SEEK_CUR)),
    "dup_shared_offset.c": through_fd(lambda link: link.endswith("/file"), lambda fd: os.lseek(fd, 1, os.SEEK_CUR)),
    "pipe_content.c": through_fd(lambda link: link.startswith("pipe:"), lambda fd: os.read(fd, 1)),
    "epoll.c": through_fd(lambda link: link == "anon_inode:[eventfd]", lambda fd: os.read(fd, 8)),
    "memory_big.c": overwrite_largest_mapping,
    "nice.c": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 12),
    "oom_score_adj.c": lambda pid: void(Path(f"/proc/{pid}/oom_score_adj").write_text("400")),
    "sched_policy.c": lambda pid: os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0)),
    "rlimits.c": lower_fsize,
    "blocked_nanosleep.c": interrupt_all_threads,
}


def void(_: object) -> None:
    """Let an expression stand where nothing is returned."""


def disturbed_result(run: Run, disturb: Callable[[int], None]) -> str:
    disturb(run.wait_ready())
    run.release()
    return run.result()


@pytest.mark.parametrize("name", DISTURBANCES)
def test_program_fails_when_its_state_is_disturbed(name: str, scratch_dir: Path) -> None:
    require(os.geteuid() == 0, "root")
    with find(name).start(scratch_dir) as run:
        assert disturbed_result(run, DISTURBANCES[name]).startswith("FAIL: ")
