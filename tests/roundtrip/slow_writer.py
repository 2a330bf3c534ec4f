"""A process is copied in rounds while another one is in the middle of writing into it by process_vm_writev(2).

Needs neither pytest nor hosts: `python -m tests.roundtrip.slow_writer TRACKER KIND [PROGRAM]`, exit code 0 when no page
is wrong. TRACKER may be auto; KIND of memory: private, shared; PROGRAM is slow_writer.c compiled elsewhere (-static).
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from core import DumpOptions, LiveSource
from core.memory.ranges import PAGE_SIZE, Ranges
from core.options import TrackChoice
from tests.roundtrip.dirty_exact import build
from tests.roundtrip.shared_exact import Copy
from tests.roundtrip.targets import attached, home_cgroup

SOURCE = Path(__file__).with_name("slow_writer.c")
SIZE = 16 * PAGE_SIZE
WRITTEN = b"\2" * PAGE_SIZE


class Talker:
    """One running slow_writer.c; ended with the stack."""

    def __init__(self, stack: ExitStack, *command: str | Path) -> None:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdin and process.stdout
        self.pid, self._stdin, self._stdout = process.pid, process.stdin, process.stdout

    def expect(self, word: str) -> str:
        """What comes behind `word`, which it says now."""
        line = self._stdout.readline().decode().split()
        assert line[:1] == [word], f"it says {line}"
        return line[-1]

    def expect_end(self) -> None:
        """It has closed what we read from."""
        assert self._stdout.read() == b""

    def end_write(self) -> None:
        """The call goes on, and ends."""
        self._stdin.write(b"\n")
        self._stdin.flush()
        self.expect("written")


@dataclass
class Target:
    """Under way; `stack` ends what is started for it."""

    pid: int
    area: int
    program: Path
    stack: ExitStack

    def begin_write(self) -> Talker:
        """All its pages are made ready to be written, and nothing is in them yet."""
        writer = Talker(self.stack, self.program, "writer", str(self.pid), f"{self.area:x}")
        writer.expect("begun")
        return writer


@dataclass
class Scene:
    """A target under migration, and its area as it is over there: `private`, or one of `shared`."""

    target: Target
    source: LiveSource
    private: bytearray
    shared: Copy

    def take(self) -> None:
        """What is pending goes over."""
        process, area = self.source.processes[self.target.pid], self.target.area
        for start, memory in process.page_reader(1).read(process.pending.intersect(Ranges.of([(area, area + SIZE)]))):
            self.private[start - area : start - area + len(memory)] = memory
        self.shared.take(self.source)

    def look_and_take(self) -> None:
        """A round."""
        self.source.scan()
        self.take()

    def old(self) -> list[int]:
        """Which pages over there are not as written."""
        copied = bytes(self.private)
        for file in self.shared.files.values():
            if any(content := file[:SIZE]):
                copied = content
        return [page for page in range(0, SIZE, PAGE_SIZE) if copied[page : page + PAGE_SIZE] != WRITTEN]


@contextmanager
def target_of(program: Path, kind: str) -> Iterator[Target]:
    """At work."""
    with ExitStack() as stack:
        talker = Talker(stack, program, "target", kind)
        area = int(talker.expect("area"), 16)
        talker.expect_end()
        stack.enter_context(home_cgroup(talker.pid))
        yield Target(talker.pid, area, program, stack)


@contextmanager
def scene(program: Path, tracker: TrackChoice | None, kind: str) -> Iterator[Scene]:
    """A target of which a first round is over there."""
    with target_of(program, kind) as target, attached(target.pid, DumpOptions(track=tracker)) as source:
        found = Scene(target, source, bytearray(SIZE), Copy())
        found.look_and_take()
        yield found


def copy_while_written(program: Path, tracker: TrackChoice | None, kind: str) -> list[int]:
    """Pages that are wrong after two rounds within a call, its end, and the freeze."""
    with scene(program, tracker, kind) as now:
        writer = now.target.begin_write()
        now.look_and_take()
        now.look_and_take()
        assert now.old()
        writer.end_write()
        now.source.freeze()
        now.take()
        return now.old()


def main(tracker: str, kind: str, program: str = "") -> int:
    """One line; the exit code."""
    with tempfile.TemporaryDirectory() as directory:
        built = Path(program) if program else build(Path(directory), SOURCE)
        chosen = None if tracker == "auto" else cast(TrackChoice, tracker)
        wrong = copy_while_written(built, chosen, kind)
    print(f"{tracker} {kind}: {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
