"""A process that stores and changes its address space all the time is copied from outside; at the end its copy is
compared byte by byte.

Needs neither pytest nor hosts: `python -m tests.roundtrip.dirty_exact TRACKER RUNS SECONDS [PROGRAM]`, exit code 0 when
no page of any run is wrong. PROGRAM is dirty_stress.c compiled elsewhere (-static), for a machine without a compiler.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from core.kernel import ptrace
from core.kernel.calls import pidfd_getfd, pidfd_open
from core.memory.dirty.choose import choose_tracker
from core.memory.dirty.uffd import scan_last
from core.memory.pages import ReadPageReader
from core.memory.present import spans_of
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.options import TrackChoice
from core.proc.maps import Vma, parse_maps
from core.proc.reader import ProcReader
from core.tracee.freezer import stop_process
from tests.waiting import wait_until

SOURCE = Path(__file__).with_name("dirty_stress.c")
ZERO = bytes(PAGE_SIZE)


class Stress:
    """The running program; `tell` lets it take its next step."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin and process.stdout
        self.pid = process.pid
        self._stdin, self._stdout = process.stdin, process.stdout
        self._uffd = int(self.expect("uffd"))

    def open_uffd(self) -> int:
        """Our duplicate of the userfaultfd that it has made."""
        pidfd = pidfd_open(self.pid)
        try:
            return pidfd_getfd(pidfd, self._uffd)
        finally:
            os.close(pidfd)

    def tell(self) -> None:
        self._stdin.write("\n")
        self._stdin.flush()

    def expect(self, word: str) -> str:
        line = self._stdout.readline().split()
        assert line[:1] == [word], f"the program says {line}"
        return line[-1]

    def waits_for_a_line(self) -> bool:
        """Whether its only thread left is in read(0, …): nothing is stored any more."""
        return Path(f"/proc/{self.pid}/syscall").read_text().startswith("0 0x0 ")

    def vmas(self) -> tuple[Vma, ...]:
        return parse_maps(Path(f"/proc/{self.pid}/maps").read_text())


class Copy:
    """The process's pages as they would be at the destination, renewed round by round."""

    def __init__(self, stress: Stress, kind: TrackChoice) -> None:
        self.pages: dict[int, bytes] = {}
        self.stopped_s = 0.0  # by the longest round
        self._stress = stress
        self._tracker = choose_tracker(stress.pid, stress.open_uffd, kind=kind)
        self._reader = ReadPageReader(stress.pid, seen=self._tracker.note_read)

    def round(self) -> Ranges:
        """What was told of a look that leaves it running; the copy has it now."""
        frozen = stop_process(self._stress.pid, ProcReader()) if self._tracker.needs_stop else None
        began = time.monotonic()
        try:
            told = self._tracker.collect_and_rearm(self._stress.vmas())
        finally:
            if frozen:
                ptrace.detach(frozen.tids)
                self.stopped_s = max(self.stopped_s, time.monotonic() - began)
        self._take(told.ranges, told.zero)
        return told.ranges

    def last_round(self) -> Iterator[str]:
        """Nothing runs any more: take what is dirty, and name every page that the copy has not or has otherwise."""
        vmas = self._stress.vmas()
        alone = self._tracker.collect_last(vmas)
        scan_last([(self._tracker, vmas)])
        last = self._tracker.collect_last(vmas)
        assert (last.dirty.ranges, last.dirty.zero, last.present) == (
            alone.dirty.ranges, alone.dirty.zero, alone.present,
        )  # fmt: skip
        self._take(last.dirty.ranges, last.dirty.zero)
        assert last.present.carried == self._tracker.present(self._stress.vmas())
        for start, memory in self._reader.read(last.present.carried):
            for offset in range(0, len(memory), PAGE_SIZE):
                copied = self.pages.get(start + offset)
                if copied != memory[offset : offset + PAGE_SIZE]:
                    yield f"{start + offset:x}: {'never copied' if copied is None else 'differs'}"
        assert self._reader.missing == EMPTY

    def _take(self, ranges: Ranges, zero: Ranges) -> None:
        self._reader.missing = EMPTY
        for start, memory in self._reader.read(ranges):
            for offset in range(0, len(memory), PAGE_SIZE):
                self.pages[start + offset] = bytes(memory[offset : offset + PAGE_SIZE])
        for page in zero.pages():
            self.pages[page * PAGE_SIZE] = ZERO
        self._tracker.keep_pending(self._reader.missing)

    def always_told(self) -> Ranges:
        """What a tracker by bits cannot track: huge pages (hugetlb) have no soft-dirty bit, pages that are joined (KSM)
        lose it, and count for good."""
        if not self._tracker.needs_stop:
            return EMPTY
        found = ProcReader().smaps(self._stress.pid)
        return spans_of(one.vma for one in found if one.vma.is_private_huge or "mg" in one.flags)

    @property
    def written_by_stops(self) -> int:
        """Bytes: the kernel tells a thread that goes on which processor it is on (rseq); one is left."""
        return PAGE_SIZE if self._tracker.needs_stop else 0

    def close(self) -> None:
        self._reader.close()
        self._tracker.close()


@contextmanager
def running(program: Path) -> Iterator[Stress]:
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Stress(process)
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run: rounds while it ran, pages in the copy, wrong ones by address, and the longest stop of a round."""

    rounds: int
    pages: int
    wrong: list[str]
    stopped_s: float


def copy_while_it_runs(program: Path, kind: TrackChoice, seconds: float, least_rounds: int = 6) -> Outcome:
    """`seconds` of work and at least so many rounds, then a stop and the comparison."""
    with running(program) as stress:
        copy, rounds = Copy(stress, kind), 0
        stress.tell()
        end = time.monotonic() + seconds
        while time.monotonic() < end or rounds < least_rounds:
            copy.round()
            rounds += 1
        stress.tell()
        stress.expect("stopped")
        wait_until(stress.waits_for_a_line, "the program waits")
        wrong = list(copy.last_round())
        copy.round()
        quiet = copy.round().subtract(copy.always_told())
        assert quiet.total <= copy.written_by_stops, f"nothing runs, and yet pages are dirty: {quiet}"
        copy.close()
        return Outcome(rounds, len(copy.pages), wrong, copy.stopped_s)


def build(directory: Path, source: Path = SOURCE) -> Path:
    """The program, compiled."""
    program = directory / source.stem
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-static"]
    subprocess.run(["gcc", *flags, "-o", program, source], check=True, timeout=60)
    return program


def main(kind: str, runs: str, seconds: str, program: str = "") -> int:
    """One line per run; the exit code."""
    wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        built = Path(program) if program else build(Path(directory))
        for number in range(1, int(runs) + 1):
            outcome = copy_while_it_runs(built, cast(TrackChoice, kind), float(seconds))
            wrong += len(outcome.wrong)
            print(
                f"{kind} run {number}: {outcome.rounds} rounds, {outcome.pages} pages, {len(outcome.wrong)} wrong,"
                f" stopped for at most {outcome.stopped_s * 1000:.1f} ms a round",
                *outcome.wrong[:10], sep="\n  " if outcome.wrong else "", flush=True,
            )  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
