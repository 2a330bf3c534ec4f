"""A process that does, line by line, what a test tells it."""

import signal
import subprocess
from pathlib import Path

from tests.waiting import wait_until


class Told:
    """Its program makes the folder `done-N` in `folder` when it has done the Nth thing, its beginning first, waits for
    SIGUSR1 and does the line of Python in the file `do`."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self.process, self.folder, self.turn = process, folder, 0
        self._wait()

    def do(self, line: str) -> None:
        """And has done it."""
        (self.folder / "do").write_text(line)
        self.process.send_signal(signal.SIGUSR1)
        self._wait()

    def _wait(self) -> None:
        done = self.folder / f"done-{self.turn}"
        wait_until(lambda: done.exists() or self.process.poll() is not None, "what it was told is done")
        assert self.process.poll() is None
        self.turn += 1
