"""What a restored tree has is its own: nothing of the command that restores it, and its cgroup is where it was."""

import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from core.errors import Refused, RestoreError
from core.tracee.cgroup import cgroup2_mount, cgroup2_path
from core.tracee.cgroup_home import find_home, leave_home
from tests.requires import require_root
from tests.roundtrip.targets import READER, ended_afterwards, look_at, ready, tracer
from tests.waiting import wait_until

LIBC = ctypes.CDLL(None, use_errno=True)
PROGRAM = "signal_masks.c"
PR_SET_TIMERSLACK, PR_SET_THP_DISABLE, ADDR_NO_RANDOMIZE = 29, 41, 0x40000
SYS_SET_MEMPOLICY, MPOL_INTERLEAVE = 238, 3
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 38, 22, 24
CAP_SYS_BOOT = 22


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of its own below ours."""
    made = Path(cgroup2_path(os.getpid()), f"test-launcher-{os.getpid()}")
    made.mkdir()
    try:
        yield made
    finally:
        wait_until(lambda: _removed(made), "the cgroup is empty")


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def mount() -> str:
    return cgroup2_mount(Path("/proc/self/mountinfo").read_text())


def test_it_comes_back_in_the_cgroup_where_it_was(tmp_path: Path, images: Path, cgroup: Path) -> None:
    with ready(PROGRAM, tmp_path) as run:
        (cgroup / "cgroup.procs").write_text(str(run.pid))
        dump(run.pid, images, DumpOptions())
        run.stop()
        with ended_afterwards(restore(images, RestoreOptions()).pid):
            assert cgroup2_path(run.pid) == str(cgroup)
            run.release()
            assert run.result() == "PASS"


def test_without_that_cgroup_it_gets_a_scope_of_its_own(tmp_path: Path, images: Path, cgroup: Path) -> None:
    with ready(PROGRAM, tmp_path) as run:
        (cgroup / "cgroup.procs").write_text(str(run.pid))
        dump(run.pid, images, DumpOptions())
        run.stop()
        wait_until(lambda: _removed(cgroup), "the cgroup is empty")
        scope = f"{mount()}/migrate-{run.pid}.scope"

        def fail(pid: int) -> None:
            raise RestoreError("no")

        with pytest.raises(RestoreError):
            restore(images, RestoreOptions(), fail)
        assert not os.path.isdir(scope), "a failed restore left its scope"
        with ended_afterwards(restore(images, RestoreOptions()).pid):
            assert cgroup2_path(run.pid) == scope
            run.release()
            assert run.result() == "PASS"
        leave_home(scope)
        assert not os.path.isdir(scope)


def test_a_login_session_of_the_same_name_is_another_one(cgroup: Path) -> None:
    session = cgroup / "session-4.scope"
    session.mkdir()
    try:
        home = find_home(str(session).removeprefix(mount()), 4711)
        assert home == f"{mount()}/migrate-4711.scope"
        leave_home(home)
    finally:
        session.rmdir()


def restored_by(prepare: Callable[[], None], images: Path) -> None:
    """A launcher that did `prepare` to itself restores, and ends; the copy is the init's."""

    def body() -> None:
        prepare()
        restore(images, RestoreOptions())

    with tracer(body) as other:
        assert other.wait() == 0, other.trouble()


def narrow() -> None:
    """Smaller limits, another priority and umask, signals ignored and blocked, another group."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.nice(7)
    os.umask(0o177)
    LIBC.personality(ADDR_NO_RANDOMIZE)
    assert LIBC.prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0) == 0
    assert LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
    assert LIBC.syscall(SYS_SET_MEMPOLICY, MPOL_INTERLEAVE, ctypes.byref(ctypes.c_ulong(1)), 64) == 0
    os.setgroups([4711])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


def choices(pid: int) -> list[str]:
    """What /proc tells beside: personality, timer slack, NUMA policy of each mapping, huge pages."""
    policies = {line.split()[1] for line in READER.text(pid, "numa_maps").splitlines()}
    huge = [line for line in READER.text(pid, "status").splitlines() if line.startswith("THP_enabled")]
    return [READER.text(pid, "personality"), READER.text(pid, "timerslack_ns"), *sorted(policies), *huge]


def test_nothing_of_the_launcher_is_inherited(tmp_path: Path, images: Path) -> None:
    with ready(PROGRAM, tmp_path) as run:
        chosen = choices(run.pid)
        before, limits = look_at(run.pid), READER.limits(run.pid)
        session, nice = READER.stat(run.pid).session, READER.stat(run.pid).nice
        dump(run.pid, images, DumpOptions())
        run.stop()
        restored_by(narrow, images)
        try:
            after = look_at(run.pid)
            assert after.status == before.status
            assert after.fds == before.fds
            assert after.cgroup == before.cgroup
            assert READER.limits(run.pid) == limits
            assert choices(run.pid) == chosen
            assert READER.stat(run.pid).nice == nice and READER.stat(run.pid).session == session
            run.release()
            assert run.result() == "PASS"
        finally:
            if READER.exists(run.pid) and READER.stat(run.pid).state != "Z":
                os.kill(run.pid, signal.SIGKILL)


def forbid_nothing() -> None:
    """A seccomp filter that allows everything is one all the same."""
    program = (ctypes.c_ulonglong * 1)(0x7FFF0000 << 32 | 6)
    filter_ = (ctypes.c_ulonglong * 2)(1, ctypes.addressof(program))
    assert LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(filter_)) == 0


def few_capabilities() -> None:
    assert LIBC.prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0) == 0


def no_new_privs() -> None:
    assert LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


@pytest.mark.parametrize(
    ("burden", "word"),
    [(forbid_nothing, "seccomp filter"), (no_new_privs, "no_new_privs"), (few_capabilities, "SYS_BOOT")],
)
def test_what_a_launcher_cannot_put_off_is_refused(
    burden: Callable[[], None], word: str, tmp_path: Path, images: Path
) -> None:
    with ready(PROGRAM, tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()

    def body() -> None:
        burden()
        with pytest.raises(Refused, match=word):
            restore(images, RestoreOptions())

    with tracer(body) as other:
        assert other.wait() == 0, other.trouble()
    assert not READER.exists(run.pid)


def test_a_smaller_bounding_set_is_told(tmp_path: Path, images: Path) -> None:
    with ready("creds_nobody.c", tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()

    def body() -> None:
        few_capabilities()
        with ended_afterwards(run.pid):
            report = restore(images, RestoreOptions(), None)
            assert any("SYS_BOOT" in notice for notice in report.notices), report.notices

    with tracer(body) as other:
        assert other.wait() == 0, other.trouble()
