"""How the destination's keeper has a terminal kept: a process of its own, started before it is needed."""

import os
import socket
import subprocess
import sys
from typing import Final

from core.errors import Blocker, MigrateError, Refused
from migrate.journal import Journal
from migrate.terminal.frames import KEPT, READY

START_LIMIT_S: Final = 60.0
ANSWER_LIMIT_S: Final = 5.0
HINT: Final = "tty(1) tells the path of one over there; --tty new makes one"


class TerminalKeeper:
    """One server that waits for its terminal; it ends with close() if it was given none."""

    def __init__(self, journal: Journal, migration_id: str) -> None:
        """Start it; MigrateError when it does not."""
        journal.make_directory("terminals")
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "migrate.terminal.server", str(journal.terminal_path(migration_id))],
                stdin=theirs.fileno(),
                start_new_session=True,
            )
        try:
            self._expect(READY, START_LIMIT_S)
        except BaseException:
            self.close()  # it ends then
            raise

    def keep(self, master: int, pid: int) -> None:
        """Copies of the master and of a pidfd are over there when this returns."""
        pidfd = os.pidfd_open(pid)
        try:
            socket.send_fds(self._control, [b"t"], [master, pidfd])
        except OSError as error:
            raise MigrateError(f"terminal: its keeper has gone: {error.strerror}") from error
        finally:
            os.close(pidfd)
        self._expect(KEPT, ANSWER_LIMIT_S)

    def _expect(self, word: bytes, limit_s: float) -> None:
        self._control.settimeout(limit_s)
        try:
            if self._control.recv(1) == word:
                return
            reason = "ended"
        except OSError as error:
            reason = str(error)
        raise MigrateError(f"terminal: its keeper does not answer: {reason}")

    def close(self) -> None:
        """Let go of it. Again is no error."""
        self._control.close()
        self._process.poll()


def refuse_no_terminal(path: str) -> None:
    """Refused when a copy cannot be given what is at `path`."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused([Blocker("tty", path, f"cannot be opened: {error.strerror}", HINT)]) from error
    is_terminal = os.isatty(fd)
    os.close(fd)
    if not is_terminal:
        raise Refused([Blocker("tty", path, "is no terminal", HINT)])
