"""Starts target.c and floor.c, compiled once for each content."""

import contextlib
import mmap
import os
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.program_build import BUILD, COMPILE, compile_into, content_hash, start_here
from tests.waiting import wait_until

HERE = Path(__file__).parent
WORD = struct.Struct("=Q")
READY, LONGEST, WRITTEN, ADDRESS = 0, 8, 16, 24


def build(name: str) -> str:
    """The program of tests/bench/NAME.c."""
    source, command = HERE / f"{name}.c", [*COMPILE, "-pthread"]
    binary = BUILD / content_hash(source, command) / name
    if not binary.exists():
        compile_into(binary, [*command, str(source)])
    return str(binary)


def floor(*arguments: str) -> list[int]:
    """What floor.c says."""
    done = subprocess.run([build("floor"), *arguments], capture_output=True, text=True, check=True, timeout=120)
    return [int(word) for word in done.stdout.split()]


@dataclass(slots=True)
class Target:
    """A running target.c. `process` is the one started first: a restored copy has its PID too."""

    process: subprocess.Popen[bytes]
    board: mmap.mmap

    @property
    def pid(self) -> int:
        return self.process.pid

    def _word(self, offset: int) -> int:
        return int(WORD.unpack_from(self.board, offset)[0])

    @property
    def written(self) -> int:
        """Pages written so far."""
        return self._word(WRITTEN)

    @property
    def address(self) -> int:
        """Where its memory begins."""
        return self._word(ADDRESS)

    @property
    def is_ready(self) -> bool:
        return bool(self._word(READY))

    def longest_s(self) -> float:
        """Longest time it stood still since it was last asked."""
        value = self._word(LONGEST) / 1e9
        WORD.pack_into(self.board, LONGEST, 0)
        return value


@contextlib.contextmanager
def started(*arguments: str, deadline_s: float = 60) -> Iterator[Target]:
    """A target, ready; all of its session is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="migrate-bench-") as folder:
        path = Path(folder, "board")
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as board:
            target = Target(start_here([build("target"), str(path), *arguments]), board)
            try:
                ready_or_ended = lambda: target.is_ready or target.process.poll() is not None  # noqa: E731
                wait_until(ready_or_ended, f"target {arguments}", deadline_s=deadline_s)
                if target.process.poll() is not None:
                    raise RuntimeError(f"target {arguments}: exit {target.process.returncode}")
                yield target
            finally:
                end(target)


def end(target: Target) -> None:
    """Kill the whole session; also of a restored copy, which has the same one."""
    kill_session(target.pid)
    target.process.wait(timeout=60)


def kill_session(pid: int) -> None:
    """SIGKILL for all of a session whose tasks never left their process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
