"""The journals: what was decided, on disk before it is done, so that a restart can finish what was begun.

One file per migration and role below STATE_DIR. The entry precedes the act, and every act is idempotent. Knows the
state machine's names, not its meaning; starts and stops nothing.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Self, TypeVar

from core.errors import Blocker, Refused
from migrate.errors import JournalError
from migrate.machine import OVER, CopyEvent, CopyState, Event, State, follow, follow_copy

T = TypeVar("T")

DEFAULT_STATE_DIR = "/var/lib/migrate"
STATE_DIR_VARIABLE = "MIGRATE_STATE_DIR"
FORMAT = 1
KEPT_S = 90 * 86400
# An id becomes a file name and a cgroup's name, and the destination takes it from the network.
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")


class Role(StrEnum):
    """Whose journal: the side that gives the process away, or the side that gets it."""

    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True)
class Step:
    """A state, and when it was entered (seconds since 1970)."""

    state: str
    at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One migration as one side sees it. `state` is a machine.State at the source, a machine.CopyState at the
    destination; `peer` is the other side as the user named it; `route` is what is needed to reach it again; `detail`
    is why it was rolled back."""

    id: str
    role: Role
    state: str
    pid: int
    start_time: int  # field 22 of /proc/PID/stat, in clock ticks
    boot_id: str
    peer: str = ""
    route: tuple[tuple[str, str], ...] = ()
    pids: tuple[int, ...] = ()
    cgroup: str = ""
    keeper_socket: str = ""
    detail: str = ""
    steps: tuple[Step, ...] = field(default=())

    def entered(self, state: str, **changes: object) -> "Entry":
        """This entry one step on, with whatever else became known."""
        steps = (*self.steps, Step(state, time.time()))
        return replace(self, state=state, steps=steps, **changes)  # type: ignore[arg-type]


class Journal:
    """The journals of one state directory; makes it (0700) when first written to."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    @classmethod
    def default(cls) -> Self:
        """The machine's own, or where MIGRATE_STATE_DIR points."""
        return cls(Path(os.environ.get(STATE_DIR_VARIABLE) or DEFAULT_STATE_DIR))

    def path(self, migration_id: str, role: Role) -> Path:
        """The journal's file; JournalError when `migration_id` cannot name one."""
        return self.state_dir / f"{checked_id(migration_id)}.{role}.json"

    def socket_path(self, migration_id: str) -> Path:
        """Where the destination's keeper listens."""
        return self.state_dir / "run" / f"{checked_id(migration_id)}.sock"

    def terminal_path(self, migration_id: str) -> Path:
        """Where `migrate attach` finds the terminal that the copy was given."""
        return self.state_dir / "terminals" / f"{checked_id(migration_id)}.sock"

    def log_path(self, migration_id: str, role: Role) -> Path:
        """Where a keeper logs."""
        return self.state_dir / "log" / f"{checked_id(migration_id)}.{role}.log"

    def make_directory(self, name: str = "") -> Path:
        """The state directory or one below it, made when missing, for the owner alone."""
        path = self.state_dir / name
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(
                str(path),
                f"cannot be made: {error.strerror}",
                hint=f"run as root, or set {STATE_DIR_VARIABLE} to a directory that you may write to",
            ) from error
        return path

    def write(self, entry: Entry) -> None:
        """Replace the journal by `entry`: on return it is on disk, whole; on error the old one is still there."""
        self.make_directory()
        path = self.path(entry.id, entry.role)
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(entry)}, indent=1) + "\n"
        try:
            _write_atomically(path, text.encode())
        except OSError as error:
            raise JournalError(str(path), f"cannot be written: {error.strerror}") from error

    def read(self, migration_id: str, role: Role) -> Entry | None:
        """The entry, None when there is none; JournalError when what is there is no journal."""
        path = self.path(migration_id, role)
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise JournalError(str(path), f"cannot be read: {error}") from error
        return _parse(str(path), text)

    def require(self, migration_id: str, role: Role) -> Entry:
        """The entry; JournalError when there is none."""
        entry = self.read(migration_id, role)
        if entry is None:
            raise JournalError(
                str(self.path(migration_id, role)),
                "no such migration",
                hint="`migrate status` lists the migrations this host knows",
            )
        return entry

    def refuse_known(self, migration_id: str) -> None:
        """Refused when there is an entry already: an id names one migration. "" is none yet."""
        if migration_id and self.read(migration_id, Role.SOURCE) is not None:
            hint = f"see `migrate status {migration_id}`; every migration needs an id of its own"
            raise Refused([Blocker("id-taken", f"migration {migration_id}", "is known here already", hint)])

    def entries(self, role: Role) -> list[Entry]:
        """Every entry of `role`, by id. A corrupt one raises: it may hold a frozen process."""
        found = sorted(self.state_dir.glob(f"*.{role}.json"))
        return [_parse(str(path), path.read_text()) for path in found]

    def entries_of(self, pid: int, start_time: int) -> list[Entry]:
        """Of the migrations away of one process, of this boot; by id. As entries()."""
        wanted = (read_boot_id(), pid, start_time)
        found = self.entries(Role.SOURCE)
        return [entry for entry in found if (entry.boot_id, entry.pid, entry.start_time) == wanted]

    def advance(self, migration_id: str, event: Event, **changes: object) -> Entry:
        """Take `event` at the source, on disk on return; OutOfOrder when the table has no such line."""
        entry = self.require(migration_id, Role.SOURCE)
        after = entry.entered(follow(State(entry.state), event), **changes)
        self.write(after)
        return after

    def roll_back(self, migration_id: str, reason: str) -> Entry:
        """`advance` for what failed at the source: `reason` becomes its detail; the first one told stands."""
        detail = self.require(migration_id, Role.SOURCE).detail or reason
        return self.advance(migration_id, Event.FAILED, detail=detail)

    def advance_copy(self, migration_id: str, event: CopyEvent, **changes: object) -> Entry:
        """The same at the destination."""
        entry = self.require(migration_id, Role.DESTINATION)
        after = entry.entered(follow_copy(CopyState(entry.state), event), **changes)
        self.write(after)
        return after

    def prune(self) -> None:
        """Remove what is left of migrations that are over: journals and logs of an earlier boot that are older than
        KEPT_S, locks of an earlier boot. What cannot be read or removed stays, and so does what a source in doubt would
        ask for: that a copy ran here.
        """
        boot_id, oldest = read_boot_id(), time.time() - KEPT_S
        for path in self.state_dir.glob("*.json"):
            with contextlib.suppress(OSError, UnicodeDecodeError, JournalError):
                if path.stat().st_mtime < oldest:
                    entry = _parse(str(path), path.read_text())
                    if entry.boot_id != boot_id and _is_over(entry):
                        self._remove(entry)
        for path in self.state_dir.glob("pid-*.lock"):
            if not path.name.startswith(f"pid-{boot_id}-"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _remove(self, entry: Entry) -> None:
        self.log_path(entry.id, entry.role).unlink(missing_ok=True)
        if entry.role is Role.DESTINATION:
            self._copy_lock(entry.id).unlink(missing_ok=True)
        self.path(entry.id, entry.role).unlink()

    def _copy_lock(self, migration_id: str) -> Path:
        return self.state_dir / f"{checked_id(migration_id)}.destination.lock"

    def lock_target(self, boot_id: str, pid: int, start_time: int) -> "contextlib.AbstractContextManager[int]":
        """Hold the target: one migration per process. Yields the lock's descriptor, for a keeper to inherit."""
        hint = "wait for the other migration, or see `migrate status`"
        busy = Blocker("target-busy", f"pid {pid}", "is being migrated already", hint)
        return self._lock(f"pid-{boot_id}-{pid}-{start_time}.lock", busy)

    def lock_copy(self, migration_id: str) -> "contextlib.AbstractContextManager[int]":
        """Hold the destination's copy: the keeper for its life, or whoever acts for a keeper that is gone."""
        reason = "another process is working on this copy"
        busy = Blocker("copy-busy", f"migration {migration_id}", reason, "try again in a moment")
        return self._lock(self._copy_lock(migration_id).name, busy)

    @contextlib.contextmanager
    def _lock(self, name: str, busy: Blocker) -> Iterator[int]:
        path = self.make_directory() / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Refused([busy]) from error
            yield fd
        finally:
            os.close(fd)  # a keeper that inherited it goes on holding the lock; the file stays, or the lock could split


def _is_over(entry: Entry) -> bool:
    """Nobody would have to know of it any more."""
    return entry.state in (OVER if entry.role is Role.SOURCE else (CopyState.ABORTED,))


def checked_id(migration_id: str) -> str:
    """`migration_id` when it can safely be part of a file name; JournalError otherwise."""
    if not ID_PATTERN.match(migration_id):
        raise JournalError(repr(migration_id[:80]), "is not a migration's id", hint="ids are letters, digits, - and _")
    return migration_id


def read_boot_id() -> str:
    """This boot's name: a journal of another boot speaks of processes that are gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat, in clock ticks since boot; with the pid and the boot it names a process for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        raise Refused(
            [Blocker("no-process", f"pid {pid}", "ended while it was looked at", "see `pgrep -a NAME`")]
        ) from None
    return int(text.rpartition(")")[2].split()[19])


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _parse(path: str, text: str) -> Entry:
    try:
        fields = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise JournalError(path, "was written by another version of migrate", hint="use the version that wrote it")
        return _entry(fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JournalError(
            path,
            f"is not a journal: {error}",
            hint="its migration may hold a frozen process: look for a cgroup migrate-ID before removing the file",
        ) from error


def _entry(fields: dict[str, object]) -> Entry:
    """The record; TypeError or ValueError for a field of another type, a missing or an unknown one."""
    role = Role(str(fields["role"]))
    State(str(fields["state"])) if role is Role.SOURCE else CopyState(str(fields["state"]))
    steps = tuple(Step(str(step["state"]), float(step["at"])) for step in _list(fields["steps"], dict))
    route = tuple((str(name), str(value)) for name, value in _list(fields["route"], list))
    pids = tuple(_list(fields["pids"], int))
    entry = Entry(**{**fields, "role": role, "steps": steps, "route": route, "pids": pids})  # type: ignore[arg-type]
    for name, kind in (("id", str), ("pid", int), ("start_time", int), ("boot_id", str), ("cgroup", str)):
        if not isinstance(getattr(entry, name), kind):
            raise TypeError(f"{name} is not of type {kind.__name__}")
    return entry


def _list(value: object, kind: type[T]) -> list[T]:
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise TypeError(f"not a list of {kind.__name__}")
    return value
