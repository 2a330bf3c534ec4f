"""Shared memory that several tasks store to is copied from outside in rounds; at the freeze every byte is compared.

Needs neither pytest nor hosts: `python -m tests.roundtrip.shared_exact TRACKER HOW RUNS SECONDS [PROGRAM]`, exit
code 0 when no page of any run is wrong. PROGRAM is shared_stress.c or huge_stress.c compiled elsewhere.
"""

import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from core import DumpOptions, LiveSource
from core.live.shared_file import SharedFile
from core.memory.ranges import EMPTY, PAGE_SIZE
from core.options import TrackChoice
from tests.roundtrip.dirty_exact import build
from tests.roundtrip.targets import home_cgroup

SOURCE = Path(__file__).with_name("shared_stress.c")
HUGE_SOURCE = Path(__file__).with_name("huge_stress.c")


@contextmanager
def running(program: Path, *arguments: str) -> Iterator[int]:
    """The program at work; all of its session is gone afterwards."""
    command, errors = [str(program), *arguments], program.with_suffix(".errors")
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        ) as process,
    ):
        try:
            assert process.stdout and process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert not errors.read_text(), errors.read_text()


@dataclass(slots=True)
class Copy:
    """Segments as they would be at the destination, by number."""

    files: dict[int, mmap.mmap] = field(default_factory=dict)
    doubts: dict[str, int] = field(default_factory=dict)  # looks that compared all of a segment, by why
    looks: int = 0

    def take(self, source: LiveSource) -> None:
        """What is pending goes over."""
        for process in source.processes.values():
            process.was_sent(EMPTY)
        for shared in source.files:
            self.looks += 1
            self.doubts[shared.doubt] = self.doubts.get(shared.doubt, 0) + 1
            copied = self._copy_of(shared)
            for start, memory in shared.read(shared.pending):
                copied[start : start + len(memory)] = bytes(memory)
            for start, stop in shared.holes:
                copied[start:stop] = bytes(stop - start)
            shared.was_sent()

    def _copy_of(self, shared: SharedFile) -> mmap.mmap:
        return self.files.setdefault(shared.memory_id, mmap.mmap(-1, 2 * shared.size + PAGE_SIZE))

    def wrong(self, shared: SharedFile) -> Iterator[str]:
        """Pages that differ."""
        copied, size = self._copy_of(shared), shared.size
        for start in range(0, size, PAGE_SIZE):
            if os.pread(shared.fd, PAGE_SIZE, start) != copied[start : start + PAGE_SIZE]:
                yield f"{shared.name}: {start:x}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run. `doubts`: how many looks at a segment compared all of it, by why."""

    rounds: int
    wrong: list[str]
    doubts: dict[str, int]


def copy_while_it_runs(program: Path, kind: TrackChoice, how: str, seconds: float) -> Outcome:
    """`seconds` of rounds, then the freeze and the comparison."""
    with running(program, how) as pid, home_cgroup(pid):
        source = LiveSource(pid, f"migrate-survival-{os.getpid()}", DumpOptions(track=kind))
        try:
            return _copy(source, seconds)
        finally:
            source.thaw()
            source.close()


def _copy(source: LiveSource, seconds: float) -> Outcome:
    copy, rounds = Copy(), 0
    source.attach()
    end = time.monotonic() + seconds
    while time.monotonic() < end or rounds < 4:
        source.scan()
        copy.take(source)
        rounds += 1
    source.freeze()
    copy.take(source)
    wrong = [page for shared in source.files for page in copy.wrong(shared)]
    return Outcome(rounds, wrong, copy.doubts)


def main(kind: str, how: str, runs: str, seconds: str, built: str = "") -> int:
    """One line per run; the exit code."""
    wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        program = Path(shutil.copy(built, directory)) if built else build(Path(directory), SOURCE)
        for number in range(1, int(runs) + 1):
            outcome = copy_while_it_runs(program, cast(TrackChoice, kind), how, float(seconds))
            wrong += len(outcome.wrong)
            print(
                f"{kind} {how} run {number}: {outcome.rounds} rounds, {len(outcome.wrong)} wrong, {outcome.doubts}",
                *outcome.wrong[:10], sep="\n  " if outcome.wrong else "", flush=True,
            )  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
