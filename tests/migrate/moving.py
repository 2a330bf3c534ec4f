"""What the tests of whole moves share: two hosts with one directory in common, the command as a person types it, and
what may be left of a move. Claims nothing."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hosts import Host, HostPopen
from tests.hosts.host import REPOSITORY
from tests.program_build import ENVIRONMENT, Program, Run, find
from tests.waiting import wait_until

STATE_DIR = "/var/lib/migrate"
OVER = ("DONE", "ROLLED_BACK", "KEPT_SOURCE", "RESUMED", "ABORTED")
MIGRATE_TIMEOUT_S = 60
PYTHON = str(REPOSITORY / ".venv/bin/python")


@dataclass(frozen=True, slots=True)
class Said:
    """How `migrate` ended and what it said."""

    code: int
    out: str
    err: str
    took_s: float = 0.0

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def events(self) -> list[dict[str, Any]]:
        """Of --json: every line of standard output is one."""
        return [json.loads(line) for line in self.out.splitlines()]

    def event(self, name: str) -> dict[str, Any]:
        """The last one of that name."""
        return [event for event in self.events if event["event"] == name][-1]


@dataclass(slots=True)
class Pair:
    """host-a and host-b. `folder` is the same directory under the same name on both."""

    a: Host
    b: Host
    folder: Path
    _started: int = 0

    def start(self, program: str | Program, *, on: Host | None = None) -> Run:
        """A self-checking program as a service of host-a, ready."""
        self._started += 1
        host = on or self.a
        found = find(program) if isinstance(program, str) else program
        run = found.start(self.folder / str(self._started), lambda argv: host.start(argv, env=ENVIRONMENT))
        run.wait_ready()
        return run

    def migrate(self, *words: str | int, on: Host | None = None, env: Mapping[str, str] | None = None) -> Said:
        """`migrate WORDS…` on host-a, to its end."""
        begin = time.monotonic()
        argv = ["migrate", *map(str, words)]
        done = (on or self.a).run(argv, check=False, timeout_s=MIGRATE_TIMEOUT_S, env=env)
        return Said(done.returncode, done.stdout, done.stderr, time.monotonic() - begin)

    def move(self, run: Run, *words: str, back: bool = False) -> Said:
        """`migrate PID root@OTHER WORDS…`, which has to work."""
        here, there = (self.b, self.a) if back else (self.a, self.b)
        said = self.migrate(run.pid, f"root@{there.name}", *run.program.dump, *words, on=here)
        assert said.code == 0, said.text
        assert not here.alive(run.pid) and there.alive(run.pid), said.text
        return said


@dataclass(slots=True)
class Moving:
    """A `migrate` that is under way on `host`."""

    host: Host
    process: HostPopen
    events_file: Path
    said: list[str] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        """Whatever it told so far."""
        try:
            text = self.events_file.read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def in_phase(self, phase: str) -> bool:
        """Did it get as far as that?"""
        return any(event.get("phase") == phase for event in self.events())

    def wait_for(self, condition: Callable[[], object], what: str, deadline_s: float = 40) -> None:
        """Until `condition`; AssertionError with what it said when it ends before."""
        wait_until(lambda: condition() or self.process.poll() is not None, what, deadline_s=deadline_s)
        assert condition(), f"it ended before: {what}\n{self.end().text}"

    def wait_for_phase(self, phase: str) -> None:
        self.wait_for(lambda: self.in_phase(phase), f"phase {phase}")

    @property
    def id(self) -> str:
        """Of the migration."""
        self.wait_for(lambda: self.events(), "it has an id")
        return str(self.events()[0]["migration_id"])

    def end(self, timeout_s: float = 40) -> Said:
        """Wait for its end."""
        out, err = self.process.communicate(timeout=timeout_s)
        return Said(self.process.returncode, out, err)


@contextmanager
def moving(pair: Pair, pid: int, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Moving]:
    """`migrate PID root@host-b WORDS…` on host-a, to be disturbed; killed at the end if it still runs."""
    events_file = f"/run/events-{time.monotonic_ns()}"
    argv = ["migrate", str(pid), f"root@{pair.b.name}", "--events-file", events_file, *words]
    streams: dict[str, Any] = {"stdin": -3, "stdout": -1, "stderr": -1, "text": True}
    with pair.a.popen(argv, env=env, **streams) as process:
        try:
            yield Moving(pair.a, process, pair.a.path(events_file))
        finally:
            process.kill()


def processes(host: Host, *words: str) -> list[int]:
    """PIDs, as the host counts, of those whose command line contains every one of `words`."""
    found = []
    for entry in host.path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if all(word in line for word in words):
                found.append(int(entry.name))
    return sorted(found)


def journals(host: Host) -> dict[str, dict[str, Any]]:
    """Every journal of the host by its file's name."""
    return {path.name: json.loads(path.read_text()) for path in host.path(STATE_DIR).glob("*.json")}


def state_of(host: Host, migration_id: str) -> str:
    """What the host's journal says of a migration; "" when there is none."""
    found = [entry for name, entry in journals(host).items() if name.startswith(f"{migration_id}.")]
    return str(found[0]["state"]) if found else ""


def cgroups(host: Host) -> list[str]:
    """Cgroups of ours that the host still has."""
    if host.cgroup is None:
        return []
    return [folder for folder, _, _ in os.walk(host.cgroup) if "migrate-" in Path(folder).name]


def leavings(host: Host) -> dict[str, list[Any]]:
    """All that a move that is over must not leave behind: {} is well. Journals, locks and logs are kept on purpose."""
    found: dict[str, list[Any]] = {
        "keepers": processes(host, "migrate.keeper"),
        "commands": processes(host, "migrate", "dest"),
        "logins": [pid for pid in processes(host, "sshd:") if "listener" not in cmdline(host, pid)],
        "cgroups": cgroups(host),
        "sockets": [path.name for path in host.path(f"{STATE_DIR}/run").glob("*")],
        "unfinished": [name for name, entry in journals(host).items() if entry["state"] not in OVER],
        "temporary": [str(path.name) for path in host.path(STATE_DIR).glob(".*")],
        "in /tmp": [path.name for path in host.path("/tmp").glob("*migrate*")],
        "in /dev/shm": [path.name for path in host.path("/dev/shm").iterdir()],
    }
    return {what: names for what, names in found.items() if names}


def cmdline(host: Host, pid: int) -> str:
    """Its arguments; "" when it has gone."""
    try:
        return host.path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def assert_nothing_left(hosts: Sequence[Host], deadline_s: float = 15) -> None:
    """Wait until `leavings` are gone."""
    try:
        wait_until(lambda: not any(map(leavings, hosts)), "nothing is left", deadline_s=deadline_s)
    except AssertionError:
        raise AssertionError({host.name: leavings(host) for host in hosts}) from None


def is_traced(host: Host, pid: int) -> bool:
    """Is any of its threads traced?"""
    statuses = [path.read_text() for path in host.path(f"/proc/{pid}/task").glob("*/status")]
    return any("TracerPid:\t0\n" not in status for status in statuses)


def is_frozen(host: Host, pid: int) -> bool:
    """Does a cgroup hold it, for good?"""
    inside = cgroup_of(host, pid).removeprefix("0::")
    assert host.cgroup is not None
    mount = str(host.cgroup).split("/test-hosts-")[0]
    while inside not in ("", "/"):
        if "frozen 1" in Path(mount + inside, "cgroup.events").read_text():
            return True
        inside = str(Path(inside).parent)
    return False


def cgroup_of(host: Host, pid: int) -> str:
    """Its v2 cgroup."""
    lines = host.path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line for line in lines if line.startswith("0::"))


@dataclass(frozen=True, slots=True)
class Appearance:
    """What a refusal or a check must not change of a process."""

    maps: str
    fds: tuple[tuple[str, str], ...]
    cgroup: str
    traced: bool
    soft_dirty: bool


def look_at(host: Host, pid: int) -> Appearance:
    """As it is now. Its heap may grow by itself: give one that is at rest."""
    folder = host.path(f"/proc/{pid}")
    fds = sorted((entry.name, os.readlink(entry)) for entry in (folder / "fd").iterdir())
    smaps = (folder / "smaps").read_text()
    tracked = " uw" in smaps or " um" in smaps
    return Appearance((folder / "maps").read_text(), tuple(fds), cgroup_of(host, pid), is_traced(host, pid), tracked)


def assert_runs_on(host: Host, run: Run) -> None:
    """Whoever held it let go; it does what it was asked for, finds all its state right, and ends by itself."""
    wait_until(lambda: not is_traced(host, run.pid), "nobody traces it")
    wait_until(lambda: "migrate-" not in cgroup_of(host, run.pid), "it is back in its own cgroup")
    run.release()
    assert run.result() == "PASS"
    wait_until(lambda: not host.alive(run.pid), "it ended")
