"""What keeps a process stopped when nobody traces it: a frozen cgroup of its own or, where none can be made, SIGSTOP.

Either is named by a text (`path`) from which whoever comes later, without knowing anything else, resumes or ends it.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from core.errors import KernelLacks
from core.kernel.calls import pidfd_open
from core.options import HoldChoice
from core.proc.reader import ProcReader
from core.tracee.cgroup import LeafCgroup, cgroup2_path, make_leaf

STOP_PREFIX: Final = "stop:"
POLL_S: Final = 0.0002
EXIT_DEADLINE_S: Final = 10.0


class Holder(Protocol):
    """LeafCgroup and StopHolder."""

    @property
    def path(self) -> str:
        """Its name for holder_at()."""
        ...

    @property
    def notice(self) -> str:
        """What its user should know of it; "" when nothing."""
        ...

    def open(self) -> int | None:
        """A directory descriptor for CLONE_INTO_CGROUP; None when there is none to be spawned into."""
        ...

    def add_spawned(self, pid: int) -> None:
        """`pid` is one of its processes; it was spawned there."""
        ...

    def request_freeze(self) -> None:
        """Ask for the freeze without waiting: threads in a ptrace stop freeze when let go, before anything else."""
        ...

    def wait_frozen(self, *, deadline_s: float = 10.0) -> None:
        """Returns when everything stands still."""
        ...

    def thaw(self) -> None:
        """Let everything run. Idempotent."""
        ...

    def pids(self) -> list[int]:
        """Processes that it holds."""
        ...

    def holds(self, pid: int) -> bool:
        """Whether it holds a process that may not be among `pids`: one whose first thread has ended."""
        ...

    def limit_cpu(self, share: float) -> None:
        """At most `share` of all CPUs (1: no limit); KernelLacks when that cannot be."""
        ...

    def kill(self) -> None:
        """SIGKILL everything, frozen or not."""
        ...

    def give_back(self) -> None:
        """Thaw what lives, wait for what was killed, leave nothing of ours. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class HeldProcess:
    """One process for good: its PID may be another's later, its start time is not."""

    pid: int
    start_time: int

    def is_stopped(self) -> bool:
        """By job control, every thread of it, but for a first one that has ended."""
        reader = ProcReader()
        states = {reader.stat(self.pid, tid).state for tid in reader.tids(self.pid)}
        return "T" in states and states <= {"T", "Z"}

    def send(self, number: signal.Signals) -> None:
        """Nothing when it is gone."""
        with self._pidfd() as pidfd, suppress(ProcessLookupError):
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, number)

    def seems_stopped(self) -> bool:
        """True when any thread is, be it for a tracer that has just let it go."""
        reader = ProcReader()
        with suppress(ProcessLookupError):
            return self.is_there() and any(reader.stat(self.pid, tid).state in "Tt" for tid in reader.tids(self.pid))
        return False

    def wait_gone(self, deadline_s: float) -> None:
        """Until it has ended."""
        with self._pidfd() as pidfd:
            if pidfd is not None:
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                poll.poll(deadline_s * 1000)

    def is_there(self) -> bool:
        """Until its parent has seen it end."""
        try:
            return ProcReader().stat(self.pid).start_time == self.start_time
        except ProcessLookupError:
            return False

    @contextmanager
    def _pidfd(self) -> Iterator[int | None]:
        """Of the very process, not of one that has its PID now: None then."""
        try:
            pidfd = pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield pidfd if self.is_there() else None
        finally:
            os.close(pidfd)


class StopHolder:
    """Holds processes by SIGSTOP. Weaker than a cgroup: a SIGCONT from anybody sets one free, its parent hears of the
    stop, and the SIGCONT that resumes it runs its handler for that signal if it has one.
    """

    def __init__(self, members: tuple[HeldProcess, ...] = ()) -> None:
        self.members = members
        self.notice = ""
        self._asked = False
        self._killed = False

    @property
    def path(self) -> str:
        """stop:PID:STARTTIME,PID:STARTTIME…; "stop:" alone before there is a process."""
        return STOP_PREFIX + ",".join(f"{member.pid}:{member.start_time}" for member in self.members)

    def open(self) -> int | None:
        """Nothing to be spawned into."""
        return None

    def add_spawned(self, pid: int) -> None:
        """One more process to hold."""
        self.members += (HeldProcess(pid, ProcReader().stat(pid).start_time),)

    def request_freeze(self) -> None:
        """The signal is queued; a thread in a ptrace stop takes it when let go, before it is in user mode again."""
        self._asked = True
        for member in self.members:
            member.send(signal.SIGSTOP)

    def wait_frozen(self, *, deadline_s: float = 10.0) -> None:
        """Until every thread is in the stop."""
        end = time.monotonic() + deadline_s
        while not self.is_frozen():
            if time.monotonic() > end:
                raise KernelLacks("SIGSTOP", f"{self.path}: did not stop within {deadline_s} s")
            time.sleep(POLL_S)

    def is_frozen(self) -> bool:
        """True when every thread is stopped."""
        return all(member.is_stopped() for member in self.members)

    def thaw(self) -> None:
        """SIGCONT to who is stopped, or shall be: it takes a SIGSTOP back that nobody has acted upon yet."""
        for member in self.members:
            if self._asked or member.seems_stopped():
                member.send(signal.SIGCONT)
        self._asked = False

    def pids(self) -> list[int]:
        """Whom it holds, of those that have not gone."""
        return [member.pid for member in self.members if member.is_there()]

    def holds(self, pid: int) -> bool:
        """All that it holds are listed."""
        return pid in self.pids()

    def limit_cpu(self, share: float) -> None:
        """Not without a cgroup."""
        raise KernelLacks("cpu controller", f"{self.path}: no cgroup of its own")

    def kill(self) -> None:
        """SIGKILL."""
        self._killed = True
        for member in self.members:
            member.send(signal.SIGKILL)

    def give_back(self) -> None:
        """Nothing stays of a signal."""
        if not self._killed:
            self.thaw()
        for member in self.members if self._killed else ():
            member.wait_gone(EXIT_DEADLINE_S)


def parse_members(path: str) -> tuple[HeldProcess, ...]:
    """Of a StopHolder's path."""
    words = path.removeprefix(STOP_PREFIX).split(",")
    pairs = [word.partition(":") for word in words if word]
    return tuple(HeldProcess(int(pid), int(start_time)) for pid, _, start_time in pairs)


def holder_at(path: str) -> Holder:
    """The holder that once had this `path`."""
    if not path.startswith(STOP_PREFIX):
        return LeafCgroup(path, os.path.dirname(path))
    return StopHolder(parse_members(path))


def find_leaf(pid: int, name: str) -> str:
    """Path of the cgroup `name` that process `pid` was moved to, or is about to be; "" when there is none."""
    try:
        now = cgroup2_path(pid)
    except (KernelLacks, ProcessLookupError, FileNotFoundError):
        return ""
    return next((path for path in (now, f"{now}/{name}") if os.path.basename(path) == name and os.path.isdir(path)), "")


def choose_holder(choice: HoldChoice, make: Callable[[], LeafCgroup], otherwise: StopHolder) -> Holder:
    """The cgroup that `make` makes, else `otherwise`. KernelLacks where the choice allows no other."""
    if choice == "stop":
        return otherwise
    try:
        return make()
    except KernelLacks as lack:
        if choice == "cgroup":
            raise
        otherwise.notice = f"held by SIGSTOP, which any SIGCONT undoes: {lack.message}"
        return otherwise


def hold_processes(read_pids: Callable[[], list[int]], name: str, choice: HoldChoice) -> Holder:
    """A holder of a running tree: a cgroup `name` below its root's, to which all are moved, or SIGSTOP for one process.

    `read_pids` tells who is in the tree at the moment, the root first.
    """

    def make() -> LeafCgroup:
        leaf = make_leaf(cgroup2_path(read_pids()[0]), name)
        try:
            _move_all(leaf, read_pids)
        except OSError as error:
            leaf.give_back()
            reason = f"{leaf.path}: cannot move processes there: {error.strerror}"
            raise KernelLacks("cgroup freezer", reason) from error
        return leaf

    otherwise = StopHolder()
    root, *below = read_pids()
    otherwise.add_spawned(root)
    for pid in below:
        with suppress(ProcessLookupError):  # ended meanwhile
            otherwise.add_spawned(pid)
    return choose_holder(choice, make, otherwise)


def _move_all(leaf: LeafCgroup, read_pids: Callable[[], list[int]]) -> None:
    """Children of a member are born in the leaf; whoever was born before its parent moved is moved in the next turn."""
    while left := [pid for pid in set(read_pids()) - set(leaf.pids()) if not leaf.holds(pid)]:
        for pid in left:
            try:
                leaf.move_here(pid)
            except ProcessLookupError:
                continue
