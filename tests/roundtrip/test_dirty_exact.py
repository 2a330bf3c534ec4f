"""A process that stores and changes its address space all the time is copied from outside without being stopped; at
the end its copy is compared byte by byte. `python -m tests.roundtrip.test_dirty_exact SECONDS` runs it for longer."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.kernel.calls import pidfd_getfd, pidfd_open
from core.memory.dirty.choose import probe_uffd_tracking
from core.memory.dirty.uffd import UffdTracker
from core.memory.pages import ReadPageReader
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.proc.maps import Vma, parse_maps
from tests.requires import require, require_root
from tests.waiting import wait_until

SOURCE = Path(__file__).with_name("dirty_stress.c")
ZERO = bytes(PAGE_SIZE)


class Stress:
    """The running program; `tell` lets it take its next step."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin and process.stdout
        self.pid = process.pid
        self._stdin, self._stdout = process.stdin, process.stdout
        pidfd = pidfd_open(process.pid)
        self.uffd = pidfd_getfd(pidfd, int(self.expect("uffd")))
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

    def __init__(self, stress: Stress) -> None:
        self.pages: dict[int, bytes] = {}
        self._stress = stress
        self._tracker = UffdTracker(stress.pid, stress.uffd)
        self._reader = ReadPageReader(stress.pid)

    def round(self) -> Ranges:
        told = self._tracker.collect_and_rearm(self._stress.vmas())
        self._reader.missing = EMPTY
        for start, memory in self._reader.read(told.ranges):
            for offset in range(0, len(memory), PAGE_SIZE):
                self.pages[start + offset] = bytes(memory[offset : offset + PAGE_SIZE])
        for page in told.zero.pages():
            self.pages[page * PAGE_SIZE] = ZERO
        self._tracker.keep_pending(self._reader.missing)
        return told.ranges

    def differences(self) -> Iterator[str]:
        """Every page there is now that the copy has not, or has otherwise."""
        present = self._tracker.present(self._stress.vmas())
        for start, memory in self._reader.read(present):
            for offset in range(0, len(memory), PAGE_SIZE):
                copied = self.pages.get(start + offset)
                if copied != memory[offset : offset + PAGE_SIZE]:
                    yield f"{start + offset:x}: {'never copied' if copied is None else 'differs'}"
        assert self._reader.missing == EMPTY

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


def copy_while_it_runs(program: Path, seconds: float) -> tuple[int, int, list[str]]:
    """(rounds, pages compared, differences) after `seconds` of work."""
    with running(program) as stress:
        copy, rounds = Copy(stress), 0
        stress.tell()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            copy.round()
            rounds += 1
        stress.tell()
        stress.expect("stopped")
        wait_until(stress.waits_for_a_line, "the program waits")
        copy.round()
        quiet = copy.round()
        different = list(copy.differences())
        assert quiet == EMPTY, f"nothing runs, and yet pages are dirty: {quiet}"
        copy.close()
        return rounds, len(copy.pages), different


def build(directory: Path) -> Path:
    program = directory / SOURCE.stem
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", program, SOURCE], check=True, timeout=60)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_root()
    require(probe_uffd_tracking(), "userfaultfd WP_ASYNC and PAGEMAP_SCAN (Linux 6.7)")
    return build(tmp_path_factory.mktemp("dirty"))


@pytest.mark.parametrize("run", [1, 2])
def test_a_process_copied_while_it_writes_is_the_same_to_the_byte(program: Path, run: int) -> None:
    rounds, pages, different = copy_while_it_runs(program, seconds=4)
    assert different == []
    assert rounds > 5
    assert pages > 4096


if __name__ == "__main__":
    print(*copy_while_it_runs(build(Path("/tmp")), float(sys.argv[1])))
