"""A leaf cgroup (v2) of ours that holds one tree: to freeze it in a way that survives our death, and to thaw it.

Never freezes a cgroup that holds anybody else.
"""

import errno
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import KernelLacks
from core.proc.main_thread import main_thread
from core.proc.reader import ProcReader

POLL_S: Final = 0.0002
CPU_PERIOD_US: Final = 100_000


@dataclass(frozen=True, slots=True)
class LeafCgroup:
    """`path`: the directory in the cgroup2 file system; `origin`: where its tasks came from (same form)."""

    path: str
    origin: str

    def move_here(self, pid: int) -> None:
        """Move process `pid` with all its threads into the leaf."""
        Path(self.path, "cgroup.procs").write_text(str(pid))

    def give_back(self) -> None:
        """Thaw, move every process to where it came from and remove the leaf. Idempotent."""
        if not os.path.isdir(self.path):
            return
        self.thaw()
        for _ in range(100):
            for pid in self.pids():
                _move(pid, self.origin)
            for pid in self._unlisted():
                _move(pid, self.origin)
            if self._remove():
                return
            time.sleep(0.01)

    def _remove(self) -> bool:
        try:
            os.rmdir(self.path)
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno != errno.ENOENT:
                raise
        return True

    def remove_when_empty(self) -> bool:
        """Remove the leaf if nothing is in it any more."""
        return self._remove()

    @property
    def notice(self) -> str:
        """Nothing to be known of it."""
        return ""

    def add_spawned(self, pid: int) -> None:
        """The kernel knows."""

    def wait_frozen(self, *, deadline_s: float = 10.0) -> None:
        """Returns when all of it stands still, and does so until thaw(), whoever lives or dies."""
        end = time.monotonic() + deadline_s
        while not self.is_frozen():
            if time.monotonic() > end:
                raise KernelLacks("cgroup freezer", f"{self.path}: did not freeze within {deadline_s} s")
            time.sleep(POLL_S)

    def request_freeze(self) -> None:
        """Ask for the freeze without waiting: tasks in a ptrace stop freeze when they are let go."""
        Path(self.path, "cgroup.freeze").write_text("1")

    def thaw(self) -> None:
        """Let everything run. Idempotent."""
        Path(self.path, "cgroup.freeze").write_text("0")

    def is_frozen(self) -> bool:
        """True when the kernel says that all of it stands still."""
        return "frozen 1" in Path(self.path, "cgroup.events").read_text()

    def limit_cpu(self, share: float) -> None:
        """At most `share` of all CPUs (1: no limit); KernelLacks where the leaf has no cpu controller."""
        file = Path(self.path, "cpu.max")
        if not file.exists():
            raise KernelLacks("cpu controller", f"is not enabled for {self.path}")
        quota = "max" if share >= 1 else str(int(CPU_PERIOD_US * share * (os.cpu_count() or 1)))
        file.write_text(f"{quota} {CPU_PERIOD_US}")

    def pids(self) -> list[int]:
        """Processes in the leaf."""
        try:
            return [int(word) for word in Path(self.path, "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []

    def _unlisted(self) -> set[int]:
        """Processes whose first thread had ended when they were moved here: the kernel does not move what has ended, so
        they show in their other threads only."""
        listed, reader, found = set(self.pids()), ProcReader(), set()
        with suppress(OSError):
            for tid in map(int, Path(self.path, "cgroup.threads").read_text().split()):
                with suppress(ProcessLookupError):
                    found |= {reader.status(tid).tgid} if tid not in listed else set()
        return found - listed

    def holds(self, pid: int) -> bool:
        """Whether the process, though not listed, is here with all threads that live."""
        try:
            return cgroup2_path(pid) == os.path.normpath(self.path)
        except (ProcessLookupError, FileNotFoundError):
            return False

    def kill(self) -> None:
        """SIGKILL everything in it, frozen or not."""
        for pid in self._unlisted():  # nor does cgroup.kill find them
            _kill(pid)
        try:
            Path(self.path, "cgroup.kill").write_text("1")
        except FileNotFoundError:  # gone, or a kernel before cgroup.kill: a frozen tree makes no new tasks
            for pid in self.pids():
                _kill(pid)

    def open(self) -> int | None:
        """A directory descriptor, for CLONE_INTO_CGROUP."""
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _move(pid: int, target: str) -> None:
    with suppress(ProcessLookupError):
        Path(target, "cgroup.procs").write_text(str(pid))


def cgroup2_mount(mountinfo: str) -> str:
    """Where the cgroup v2 file system is mounted, from /proc/self/mountinfo's text; KernelLacks when nowhere."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            return left.split()[4]
    raise KernelLacks("cgroup v2", "is not mounted", hint="mount -t cgroup2 none /sys/fs/cgroup/unified")


def cgroup2_path(pid: int) -> str:
    """Directory of the v2 cgroup that process `pid` is in, with the threads of it that live."""
    mount = cgroup2_mount(Path("/proc/self/mountinfo").read_text())
    for line in Path(f"/proc/{main_thread(pid, ProcReader())}/cgroup").read_text().splitlines():
        hierarchy, _, path = line.split(":", 2)
        if hierarchy == "0":
            return os.path.normpath(mount + "/" + path)
    raise KernelLacks("cgroup v2", f"pid {pid} is in no v2 cgroup")


def make_leaf(parent: str, name: str) -> LeafCgroup:
    """Make `parent`/`name`; KernelLacks says why that cannot be."""
    path = os.path.join(parent, name)
    try:
        os.mkdir(path)
    except OSError as error:
        raise KernelLacks("cgroup freezer", f"{path}: cannot be made: {error.strerror}") from error
    leaf = LeafCgroup(path, parent)
    if not Path(path, "cgroup.freeze").exists():
        leaf.give_back()
        raise KernelLacks("cgroup freezer", f"{path}: this kernel's cgroup v2 has none")
    return leaf
