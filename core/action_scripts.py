"""The user's programs that are called at named moments of a dump or a restore; names and environment as in criu(8).

Each has a time limit, standard input from /dev/null and a session of its own. None is called while something of a
process is borrowed in a way that our death would not undo.
"""

import logging
import os
import select
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Final

from core.errors import ScriptError
from core.kernel.calls import pidfd_open
from core.kernel.ipc_namespace import at_home

LIMIT_S: Final = 60.0
SAID_AT_MOST: Final = 4096
log = logging.getLogger(__name__)


class Action(StrEnum):
    """When a script is called."""

    PRE_DUMP = "pre-dump"  # nothing is touched yet
    NETWORK_LOCK = "network-lock"  # the tree stands still
    POST_DUMP = "post-dump"  # everything is written, or the copy is ready: the last moment to say no
    PRE_RESTORE = "pre-restore"  # nothing is made yet
    SETUP_NAMESPACES = "setup-namespaces"  # the first task is born
    POST_SETUP_NAMESPACES = "post-setup-namespaces"
    POST_RESTORE = "post-restore"  # every task is whole and stands still
    NETWORK_UNLOCK = "network-unlock"  # it is about to run, here or again
    PRE_RESUME = "pre-resume"
    POST_RESUME = "post-resume"  # it runs: too late to fail


@dataclass(frozen=True, slots=True)
class ActionScripts:
    """Executable files, called in this order at every moment. `images`: the directory of images, "" in a migration."""

    files: tuple[str, ...] = ()
    images: str = ""
    limit_s: float = LIMIT_S

    def run(self, action: Action, init_pid: int = 0) -> None:
        """Call all of them; ScriptError names the first that fails. `init_pid`: of the root, as we see it, if any."""
        for file in self.files:
            self._call(file, action, init_pid)

    def run_late(self, action: Action, init_pid: int) -> list[str]:
        """Call all of them when nothing can be undone any more: failures as notices."""
        try:
            self.run(action, init_pid)
        except ScriptError as error:
            return [error.message]
        return []

    def _call(self, file: str, action: Action, init_pid: int) -> None:
        environment = os.environ | {"CRTOOLS_SCRIPT_ACTION": action.value}
        environment |= {"CRTOOLS_IMAGE_DIR": self.images} if self.images else {}
        environment |= {"CRTOOLS_INIT_PID": str(init_pid)} if init_pid else {}
        with tempfile.TemporaryFile() as said:  # not a pipe: what it leaves behind would hold that open
            try:
                with at_home():
                    process = subprocess.Popen(
                        [file], env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                        start_new_session=True,
                    )  # fmt: skip
            except OSError as error:
                raise ScriptError(f"{_name(file, action)}: cannot be started: {error.strerror}") from error
            ended = _wait(process, self.limit_s)
            words = _last_words(said)
        if not ended:
            raise ScriptError(
                f"{_name(file, action)}: did not end within {self.limit_s:g} s and was killed", hint=words
            )
        if process.returncode:
            raise ScriptError(f"{_name(file, action)}: {_ending(process.returncode)}", hint=words)
        log.info("%s: done", _name(file, action))


NO_SCRIPTS: Final = ActionScripts()


@dataclass(slots=True)
class Network:
    """What network-lock has locked, for as long as the process `init_pid` stands still."""

    scripts: ActionScripts
    init_pid: int
    is_locked: bool = False

    def lock(self) -> None:
        """Call network-lock; from then on it counts as locked, whatever came of that."""
        self.is_locked = True
        self.scripts.run(Action.NETWORK_LOCK, self.init_pid)

    def unlock(self) -> None:
        """The process runs on here: call network-unlock. Idempotent."""
        if self.is_locked:
            self.is_locked = False
            self.scripts.run(Action.NETWORK_UNLOCK, self.init_pid)

    def unlock_whatever_it_says(self) -> None:
        """The same; the process runs on, so that a script's failure is a warning."""
        try:
            self.unlock()
        except ScriptError as error:
            log.warning("%s", error)

    def leave(self) -> None:
        """The process has ended here: it stays locked."""
        self.is_locked = False


def _name(file: str, action: Action) -> str:
    return f"action script {file} ({action})"


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> bool:
    """True when it ended in time; else it and what it started are killed."""
    pidfd = pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = bool(poll.poll(limit_s * 1000))
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        return ended
    except BaseException:  # Ctrl-C
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        os.close(pidfd)
        process.wait()


def _ending(code: int) -> str:
    return f"ended with {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"


def _last_words(said: IO[bytes]) -> str | None:
    """The last line it wrote."""
    end = said.seek(0, os.SEEK_END)
    said.seek(max(0, end - SAID_AT_MOST))
    lines = said.read().decode(errors="replace").split("\n")
    words = [line.strip() for line in lines if line.strip()]
    return f"it said: {words[-1]}" if words else None
