"""Trackers that outlive the command that began them: a small process of its own keeps them from a pre-dump to the next.

It listens on an abstract socket, answers root alone, and ends when the last of its processes has ended or was released.
"""

import json
import os
import select
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from core.errors import MigrateError, TraceeError
from core.kernel.calls import pidfd_open
from core.memory.dirty import DirtyTracker
from core.memory.present import spans_of
from core.memory.ranges import Ranges
from core.proc.main_thread import is_dead
from core.proc.maps import SmapsVma
from core.proc.reader import ProcReader

NAME_PREFIX: Final = "migrate-tracker-"
TIMEOUT_S: Final = 60.0
UCRED: Final = struct.Struct("3i")


@dataclass(slots=True)
class Kept:
    """A tracker and the dump since which it counts; "" while a round is not finished."""

    tracker: DirtyTracker
    since: str
    pidfd: int = -1


@dataclass(frozen=True, slots=True)
class KeptRound:
    """What a process wrote since the dump that was named; None when nobody knows."""

    changed: Ranges | None


@dataclass(slots=True)
class KeptTracker:
    """The tracker of `pid` in the keeper called `name`. TraceeError when the keeper does not answer."""

    name: str
    pid: int
    needs_stop: bool = False
    keeper: int = 0  # its PID

    def collect(self, since: str) -> KeptRound:
        """What changed since the dump `since`; counts anew from now on, in vain until commit()."""
        answer = _ask(self.name, do="collect", pid=self.pid)
        if answer["guard"]:
            raise TraceeError(self.pid, "has guard pages, which are not carried yet")
        changed = Ranges(tuple((start, end) for start, end in answer["changed"]))
        return KeptRound(changed if answer["since"] == since else None)

    def commit(self, dump_id: str, missing: Ranges) -> None:
        """What it told last is in the dump `dump_id`, but for `missing`, which could not be read."""
        _ask(self.name, do="commit", pid=self.pid, since=dump_id, missing=missing.spans)

    def release(self) -> None:
        """Nobody needs it any more."""
        _ask(self.name, do="release", pid=self.pid)


def find_tracker(name: str, pid: int) -> KeptTracker | None:
    """The tracker of `pid` that the keeper `name` has; None when the keeper or the tracker is gone."""
    try:
        answer = _ask(name, do="hello", pid=pid)
    except TraceeError:
        return None
    return KeptTracker(name, pid, bool(answer["needs_stop"]), int(answer["keeper"]))


def find_any_tracker(pid: int) -> KeptTracker | None:
    """The tracker of `pid` in whichever keeper has one."""
    names = {line.rpartition("@")[2] for line in ProcReader().text("self", "net/unix").splitlines() if "@" in line}
    found = (find_tracker(name, pid) for name in sorted(names) if name.startswith(NAME_PREFIX))
    return next((tracker for tracker in found if tracker is not None), None)


def without_our_marks(pid: int, smaps: tuple[SmapsVma, ...]) -> tuple[SmapsVma, ...]:
    """The VMAs of `pid` without the flag that a tracker of ours has left there."""
    marked = [one for one in smaps if "uw" in one.flags and not one.vma.shared]
    if not marked:
        return smaps
    if find_any_tracker(pid) is None:
        return ProcReader().smaps(pid)  # keepers that were asked have given up what nobody else can ask for
    return tuple(one if one.vma.shared else one._replace(flags=one.flags - {"uw"}) for one in smaps)


def keeper_name(dump_id: str) -> str:
    """What the keeper of the trackers that were begun for a dump is called."""
    return NAME_PREFIX + dump_id


def _ask(name: str, **request: object) -> dict[str, Any]:
    pid = int(str(request["pid"]))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect("\0" + name)
            if not _is_ours(connection):
                raise TraceeError(pid, f"its tracker {name} belongs to another user")
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile("rb").readline())
    except (OSError, ValueError) as error:
        raise TraceeError(pid, f"its tracker {name} does not answer: {error}") from error
    if "error" in answer:
        raise TraceeError(pid, str(answer["error"]))
    return answer


def _is_ours(connection: socket.socket) -> bool:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    return bool(UCRED.unpack(credentials)[1] == os.geteuid())


def start_keeper(name: str, trackers: Mapping[int, Kept], foreign_fds: Sequence[int]) -> None:
    """Hand the trackers over to a keeper, which does without `foreign_fds`: descriptors that are not the trackers'.

    It is no child of ours; ours of the trackers are closed when this returns. OSError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        listener.bind("\0" + name)
        listener.listen()
        child = os.fork()
        if child == 0:
            _become_keeper(listener, dict(trackers), foreign_fds)
        os.waitpid(child, 0)
    for kept in trackers.values():
        kept.tracker.close()


def _become_keeper(listener: socket.socket, trackers: dict[int, Kept], foreign_fds: Sequence[int]) -> NoReturn:
    try:
        if os.fork():
            os._exit(0)
        os.setsid()
        os.chdir("/")
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        for fd in foreign_fds:
            if fd > 2 and fd != listener.fileno():
                with suppress(OSError):
                    os.close(fd)
        _serve(listener, trackers)
    finally:
        os._exit(0)


def _serve(listener: socket.socket, trackers: dict[int, Kept]) -> None:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    for pid, kept in trackers.items():
        kept.pidfd = pidfd_open(pid)
        poll.register(kept.pidfd, select.POLLIN)
    while trackers:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                _answer_one(listener, trackers)
        for pid in [pid for pid, kept in trackers.items() if _has_ended(kept)]:
            trackers.pop(pid).tracker.close()


def _has_ended(kept: Kept) -> bool:
    return bool(select.select([kept.pidfd], [], [], 0)[0])


def _answer_one(listener: socket.socket, trackers: dict[int, Kept]) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(TIMEOUT_S)
        if not _is_ours(connection):
            return
        try:
            request = json.loads(connection.makefile("rb").readline())
            connection.sendall(json.dumps(_answer(request, trackers)).encode() + b"\n")
        except (OSError, ValueError, LookupError):  # its caller is gone, or does not speak our language
            return


def _answer(request: dict[str, Any], trackers: dict[int, Kept]) -> dict[str, object]:
    pid = int(request["pid"])
    kept = trackers.get(pid)
    if kept is None:
        for ended in [tid for tid in trackers if is_dead(tid, ProcReader())]:  # its process is met through another
            trackers.pop(ended).tracker.close()
        return {"error": "is not tracked any more"}
    try:
        match request["do"]:
            case "hello":
                return {"needs_stop": kept.tracker.needs_stop, "keeper": os.getpid()}
            case "collect":
                return _collect(pid, kept)
            case "commit":
                kept.tracker.keep_pending(Ranges(tuple((start, end) for start, end in request["missing"])))
                kept.since = str(request["since"])
                return {}
            case _:
                trackers.pop(pid).tracker.close()
                return {}
    except (MigrateError, OSError) as error:
        return {"error": str(error)}


def _collect(pid: int, kept: Kept) -> dict[str, object]:
    since, kept.since = kept.since, ""
    vmas = ProcReader().maps(pid)
    found = kept.tracker.collect_and_rearm(vmas)
    # What was dropped of huge pages is told by who knows what the copy has; here nobody does.
    changed = found.ranges.union(spans_of(vma for vma in vmas if vma.is_private_huge))
    return {"since": since, "changed": changed.spans, "guard": bool(found.guard)}
