"""What the round-trip tests share: a program that is ready, what the world sees of it, and a tracer that may die."""

import os
import select
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from core import DumpOptions, LiveSource
from core.kernel.calls import pidfd_open
from core.proc.reader import ProcReader
from core.tracee.cgroup import LeafCgroup, cgroup2_path
from tests.program_build import Launch, Run, find
from tests.waiting import wait_until

READER = ProcReader()
LEAF_NAME = f"migrate-survival-{os.getpid()}-leaf"  # this very run's, also in what it forks
STATUS_LINES = (
    "Name", "Umask", "TracerPid", "Uid", "Gid", "Groups", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt",
    "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Cpus_allowed",
)  # fmt: skip


@contextmanager
def ready(name: str, tmp_path: Path, popen: Launch | None = None) -> Iterator[Run]:
    """The program, waiting for its go; `run.pid` is set."""
    with find(name).start(Path(os.path.realpath(tmp_path)) / "s", popen) as run:
        run.wait_ready()
        yield run


@contextmanager
def attached(pid: int, options: DumpOptions | None = None) -> Iterator[LiveSource]:
    """A live source of it, given back at the end."""
    source = LiveSource(pid, LEAF_NAME, options or DumpOptions())
    try:
        source.attach()
        yield source
    finally:
        source.thaw()
        source.close()


@contextmanager
def ended_afterwards(pid: int) -> Iterator[int]:
    """A restored process is our child: killed and reaped whatever happens."""
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@dataclass(frozen=True, slots=True)
class Appearance:
    """All that others can see of a process and that must not change."""

    maps: tuple[str, ...]
    fds: dict[int, tuple[str, str]]
    status: dict[int, tuple[str, ...]]
    cgroup: str
    comms: tuple[bytes, ...]


def look_at(pid: int) -> Appearance:
    """As it is now, thread by thread."""
    tids = READER.tids(pid)
    return Appearance(
        maps=tuple(READER.text(pid, "maps").splitlines()),
        fds={fd: (READER.fd_link(pid, fd), READER.text(pid, f"fdinfo/{fd}")) for fd in READER.fds(pid)},
        status={tid: _status(pid, tid) for tid in tids},
        cgroup=READER.text(pid, "cgroup"),
        comms=tuple(READER.content(pid, f"task/{tid}/comm") for tid in tids),
    )


def _status(pid: int, tid: int) -> tuple[str, ...]:
    lines = READER.text(pid, f"task/{tid}/status").splitlines()
    return tuple(line for line in lines if line.partition(":")[0] in STATUS_LINES)


def own_fds() -> dict[int, str]:
    """Descriptors of this very process: what a leak would add to."""
    return {fd: link for fd in READER.fds(os.getpid()) if (link := _link(fd)) and not link.startswith("/proc/")}


def _link(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # the one that listed them
        return ""


def children() -> dict[int, str]:
    """Children of this very process, running or to be reaped: their names."""
    return {pid: READER.comm(pid) for pid in READER.children(os.getpid())}


def is_traced(pid: int) -> bool:
    """Whether any of its threads has a tracer."""
    return any(_tracer_of(pid, tid) for tid in READER.tids(pid))


def _tracer_of(pid: int, tid: int) -> int:
    try:
        return READER.status(pid, tid).tracer_pid
    except ProcessLookupError:  # a thread that has ended meanwhile
        return 0


@dataclass(slots=True)
class Tracer:
    """A process of its own that runs `body`; what goes wrong in it is in `trouble`."""

    pid: int
    _pidfd: int
    _trouble_fd: int
    _words: list[bytes] = field(default_factory=list)

    def live(self, seconds: float) -> None:
        """Let it work that long; AssertionError when it ends before by itself with an error."""
        if select.select([self._pidfd], [], [], seconds)[0]:
            assert self._reaped() == 0, self.trouble()

    def wait(self, deadline_s: float = 20) -> int:
        """Its wait status when it ends."""
        assert select.select([self._pidfd], [], [], deadline_s)[0], "the tracer does not end"
        return self._reaped()

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def trouble(self) -> str:
        """The traceback it left."""
        while part := os.read(self._trouble_fd, 1 << 16):
            self._words.append(part)
        return b"".join(self._words).decode(errors="backslashreplace")

    def _reaped(self) -> int:
        return os.waitpid(self.pid, 0)[1]


@contextmanager
def tracer(body: Callable[[], None]) -> Iterator[Tracer]:
    """`body` in a forked process, which is killed at the end."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _run(body, write_end)
    os.close(write_end)
    pidfd = pidfd_open(child)
    try:
        yield Tracer(child, pidfd, read_end)
    finally:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(pidfd)
        os.close(read_end)


def _run(body: Callable[[], None], trouble_fd: int) -> None:
    code = 1
    try:
        body()
        code = 0
    except BaseException:  # noqa: BLE001  # a forked child must not come back into pytest
        os.write(trouble_fd, traceback.format_exc().encode(errors="backslashreplace")[-60000:])
    finally:
        os._exit(code)


@contextmanager
def home_cgroup(pid: int) -> Iterator[str]:
    """The v2 cgroup of `pid`; at the end every cgroup of ours below it is emptied and removed."""
    home = cgroup2_path(pid)
    try:
        yield home
    finally:
        for leaf in leaves_of(home):
            wait_until(lambda leaf=leaf: _removed(leaf, home), f"{leaf} is removed")  # type: ignore[misc]


def leaves_of(home: str) -> list[str]:
    """Cgroups of migrate below `home`, innermost first."""
    found = [directory for directory, _, _ in os.walk(home) if f"/{LEAF_NAME}" in directory]
    return sorted(found, key=len, reverse=True)


def _removed(leaf: str, home: str) -> bool:
    LeafCgroup(leaf, home).give_back()
    return not os.path.isdir(leaf)
