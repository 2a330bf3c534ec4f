"""What a coordinator asks of a host: which processes run there, and migrations that outlive the connection.

A job is a `migrate PID host --id ID` in a session of its own; what it tells is appended to a file that can be read
again from any line. Starting it twice starts it once: the file that names it is made with O_EXCL.
"""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from core.errors import MigrateError
from migrate.journal import Journal, Role, checked_id, read_boot_id, read_start_time
from migrate.messages import VERSION

ENDINGS: Final = frozenset({"done", "failed", "blocked", "in_doubt", "lost"})
START_WITHIN_S: Final = 10.0
CONTAINERS: Final = tuple(map(re.compile, (
    r"[/:](?:docker|libpod|crio|cri-containerd|nerdctl)[-/:]([0-9a-f]{12,64})\b",
    r"/kubepods[^\n]*/pod[0-9a-f_-]+/([0-9a-f]{64})\b",
    r"/lxc(?:\.payload\.|/)([^/\n]+)",
    r"/machine-(?!qemu)([^/\n]+)\.scope",  # machined has libvirt's virtual machines there, too
    r"/systemd-nspawn@([^/\n]+)\.service",
)))  # fmt: skip
WITHOUT_A_WORD: Final = ("it was never started", "it ended without a word")
ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")  # as systemd writes a character in a unit's name
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    """A process that could be moved. `memory_bytes` is resident; `unit` is its systemd unit, `container` the id or the
    name of its container, "" without one; `faults_per_s` its page faults over its life so far, the cheapest hint at how
    fast it writes; `ports`: TCP ports that it listens on."""

    pid: int
    ppid: int
    start_time: int
    user: str
    command: str
    cgroup: str
    unit: str
    memory_bytes: int
    faults_per_s: float
    ports: tuple[int, ...] = ()
    container: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host is and what it has to give. Sizes in bytes; `load` is the one-minute average; `ports`: TCP ports that
    anybody listens on."""

    name: str
    version: str
    boot_id: str
    kernel: str
    cpus: int
    load: float
    memory_total: int
    memory_available: int
    cpu_flags: tuple[str, ...]
    processes: tuple[Process, ...]
    ports: tuple[int, ...] = ()

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def read_facts() -> HostFacts:
    """This host, now. Kernel threads, PID 1 and our own ancestors are left out: nobody moves these."""
    memory = psutil.virtual_memory()
    own = {process.pid for process in psutil.Process().parents()} | {os.getpid(), 1}
    ports = read_ports()
    found = [
        read_process(process, ports.get(process.pid, ())) for process in psutil.process_iter() if process.pid not in own
    ]
    return HostFacts(
        socket.gethostname(), VERSION, read_boot_id(), os.uname().release, os.cpu_count() or 1, os.getloadavg()[0],
        memory.total, memory.available, read_cpu_flags(), tuple(process for process in found if process is not None),
        tuple(sorted({port for each in ports.values() for port in each})),
    )  # fmt: skip


def read_ports() -> dict[int | None, tuple[int, ...]]:
    """TCP ports that are listened on, by process; None: it could not be told by whom."""
    found: dict[int | None, set[int]] = {}
    for one in psutil.net_connections("tcp"):
        if one.laddr and one.status == psutil.CONN_LISTEN:
            found.setdefault(one.pid, set()).add(one.laddr.port)
    return {pid: tuple(sorted(ports)) for pid, ports in found.items()}


def read_process(process: psutil.Process, ports: tuple[int, ...] = ()) -> Process | None:
    """The process as a workload; None for kernel threads, zombies and what ended meanwhile."""
    try:
        with process.oneshot():
            tid = living_thread(process)
            command = read_command(tid) if tid else ""
            if not command:
                return None
            cgroups = Path(f"/proc/{process.pid}/cgroup").read_text()
            cgroup = unified(cgroups)
            faults = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[7])
            age_s = max(1.0, time.time() - process.create_time())
            return Process(
                process.pid, process.ppid(), read_start_time(process.pid), process.username(), command[:400],
                cgroup, unit_of(cgroup), read_resident(tid), round(faults / age_s, 1), ports,
                container_of(cgroups),
            )  # fmt: skip
    except (psutil.Error, OSError, ValueError, KeyError, MigrateError):
        return None


def living_thread(process: psutil.Process) -> int:
    """The process's id, or a thread's when its first has ended before the others; 0 for a zombie."""
    if process.status() != psutil.STATUS_ZOMBIE:
        return process.pid
    tids = sorted(map(int, os.listdir(f"/proc/{process.pid}/task")))
    return next((tid for tid in tids if read_command(tid)), 0)


def read_command(tid: int) -> str:
    """Its words; "" for kernel threads, and for what has ended."""
    return Path(f"/proc/{tid}/cmdline").read_text(errors="surrogateescape").rstrip("\0").replace("\0", " ")


def read_resident(tid: int) -> int:
    """Bytes of memory that are there."""
    return int(Path(f"/proc/{tid}/statm").read_text().split()[1]) * resource.getpagesize()


def read_cpu_flags() -> tuple[str, ...]:
    """The features that /proc/cpuinfo names, sorted."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return tuple(sorted(value.split()))
    return ()


def unit_of(cgroup: str) -> str:
    """The innermost systemd unit in a cgroup's path."""
    names = [name for name in cgroup.split("/") if name.endswith((".service", ".scope"))]
    return names[-1] if names else ""


def container_of(cgroups: str) -> str:
    """Id (Docker, containerd, CRI-O, Podman) or name (LXC, systemd-nspawn) of the container that has these lines of
    /proc/PID/cgroup, as each engine names its cgroups under systemd and without. Of one in another, the outer one."""
    found = [match for pattern in CONTAINERS if (match := pattern.search(cgroups))]
    name = min(found, key=lambda match: match.start())[1] if found else ""
    return ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)


def unified(cgroups: str) -> str:
    """The v2 path among the lines of /proc/PID/cgroup."""
    return next((line[3:] for line in cgroups.splitlines() if line.startswith("0::")), "")


class Jobs:
    """Migrations that a coordinator started here, below the journal's directory."""

    def __init__(self, journal: Journal, command: Sequence[str] = (sys.executable, "-m", "migrate.cli")) -> None:
        self._journal = journal
        self._command = tuple(command)

    def start(self, migration_id: str, arguments: Sequence[str]) -> bool:
        """Start `migrate ARGUMENTS --id ID`, unless it was started before: then False."""
        folder = self._journal.make_directory("jobs")
        path = self._path(migration_id, "json")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        events = self._path(migration_id, "events")
        argv = [*self._command, *arguments, "--id", migration_id, "--events-file", str(events)]
        with open(folder / f"{migration_id}.log", "ab") as log:
            started = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        known = {"pid": started.pid, "start_time": read_start_time(started.pid), "boot_id": read_boot_id()}
        _replace(path, json.dumps({**known, "argv": argv}))
        return True

    def cancel(self, migration_id: str) -> bool:
        """Ask it to turn back, as Ctrl-C would; False when it runs no more."""
        pid = self._running(migration_id)
        if pid is not None:
            os.kill(pid, signal.SIGINT)
        return pid is not None

    def follow(self, migration_id: str, skip: int) -> Iterator[str]:
        """The event lines from number `skip` on, until one that ends it. A job that ended without a word ends with
        `lost`, which tells the journal's state; a job that never was, too."""
        for number, line in enumerate(self._lines(migration_id)):
            if number >= skip:
                yield line
            if json.loads(line).get("event") in ENDINGS:
                return
        entry = self._journal.read(migration_id, Role.SOURCE)
        said = (entry.detail if entry else "") or self._last_words(migration_id)
        yield json.dumps({"event": "lost", "state": entry.state if entry else "", "message": said})

    def _lines(self, migration_id: str) -> Iterator[str]:
        path, rest = self._path(migration_id, "events"), ""
        deadline = time.monotonic() + START_WITHIN_S
        file = None
        try:
            while True:
                alive = self._running(migration_id) is not None  # before reading: what it wrote last is then there
                if file is None and path.exists():
                    file = open(path, encoding="utf-8")
                read = file.read() if file else ""
                *whole, rest = (rest + read).split("\n")
                yield from whole
                if not read:
                    if not alive and (file or self._was_started(migration_id) or time.monotonic() > deadline):
                        return
                    time.sleep(POLL_S)
        finally:
            if file:
                file.close()

    def _path(self, migration_id: str, suffix: str) -> Path:
        return self._journal.state_dir / "jobs" / f"{checked_id(migration_id)}.{suffix}"

    def _record(self, migration_id: str) -> dict[str, object]:
        try:
            return dict(json.loads(self._path(migration_id, "json").read_text() or "{}"))
        except FileNotFoundError:
            return {}

    def _was_started(self, migration_id: str) -> bool:
        return "pid" in self._record(migration_id)

    def _running(self, migration_id: str) -> int | None:
        record = self._record(migration_id)
        pid = record.get("pid")
        if not isinstance(pid, int) or record.get("boot_id") != read_boot_id():
            return None
        try:
            process = psutil.Process(pid)
            same = read_start_time(pid) == record.get("start_time")
            return pid if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (psutil.Error, OSError, MigrateError):
            return None

    def _last_words(self, migration_id: str) -> str:
        try:
            lines = self._path(migration_id, "log").read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return WITHOUT_A_WORD[0]
        return lines[-1][-400:] if lines else WITHOUT_A_WORD[1]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    os.replace(temporary, path)
