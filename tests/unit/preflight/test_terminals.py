"""Terminals before a move: with both ends they go along, others are refused."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.options import FileChoices
from core.preflight import PreflightOptions, collect_facts
from core.proc.reader import ProcReader
from core.tracee.family import read_family
from tests.requires import require_root
from tests.unit.preflight.targets import python


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@contextmanager
def terminal_of_ours() -> Iterator[str]:
    """Path of a pseudo-terminal whose master is here."""
    master, slave = pty.openpty()
    try:
        yield os.ttyname(slave)
    finally:
        os.close(master)
        os.close(slave)


def test_a_terminal_is_refused_and_its_loss_told(tmp_path: Path) -> None:
    with terminal_of_ours() as path:
        script = f"import fcntl, termios\nfcntl.ioctl(os.open({path!r}, os.O_RDWR), termios.TIOCSCTTY, 0)"
        with python(script, tmp_path) as pid:
            findings = collect_facts(pid, PreflightOptions())
            shell_job = collect_facts(pid, PreflightOptions(shell_job=True))
        assert [blocker.code for blocker in findings.blockers] == ["fd-terminal"]
        assert "its controlling terminal stays here: it has none over there" in findings.notices
        assert not any("terminal" in notice for notice in shell_job.notices)


def test_one_new_terminal_stands_in_for_one_terminal(tmp_path: Path) -> None:
    options = PreflightOptions(shell_job=True, files=FileChoices(terminal="new"))
    with terminal_of_ours() as first, terminal_of_ours() as second:
        with python(f"os.open({first!r}, os.O_RDWR | os.O_NOCTTY)", tmp_path) as pid:
            assert collect_facts(pid, options).blockers == ()
        both = f"for path in {first!r}, {second!r}: os.open(path, os.O_RDWR | os.O_NOCTTY)"
        with python(both, tmp_path) as pid:
            blockers = collect_facts(pid, options).blockers
        assert len(blockers) == 2
        assert all("one of several terminals" in blocker.reason for blocker in blockers)


def test_a_terminal_with_both_ends_goes_unless_somebody_else_has_it_open(tmp_path: Path) -> None:
    script = (
        "import fcntl, pty, termios\nmaster, slave = pty.openpty()\nfcntl.ioctl(slave, termios.TIOCSCTTY, 0)\n"
        f"open({str(tmp_path / 'name')!r}, 'w').write(os.ttyname(slave))"
    )
    with python(script, tmp_path) as pid:
        findings = collect_facts(pid, PreflightOptions())
        assert not findings.blockers and not findings.notices
        path = (tmp_path / "name").read_text()
        assert path not in [need.path for need in findings.record.files]
        with open(path) as slave, subprocess.Popen(["/bin/sleep", "100"], stdin=slave) as other:
            try:
                (blocker,) = collect_facts(pid, PreflightOptions()).blockers
                assert blocker.code == "fd-shared"
                assert "/dev/ptmx" in blocker.subject and f"process {other.pid} has it open too" in blocker.reason
            finally:
                other.kill()


ELSEWHERE = """
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && exec {python} -I -S -c '
import os, time
os.write(1, bytes(str(all(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY) for _ in range({count}))), "ascii"))
os.close(1)
time.sleep(100)'
"""


def test_who_has_one_of_that_number_elsewhere_does_not_have_it(tmp_path: Path) -> None:
    """Mount namespaces with terminals of their own count them from 0, and may have one /dev/ptmx."""
    script = f"import pty\nopen({str(tmp_path / 'name')!r}, 'w').write(os.ttyname(pty.openpty()[1]))"
    with python(script, tmp_path) as pid:
        count = int((tmp_path / "name").read_text().rpartition("/")[2]) + 1
        shell = ELSEWHERE.format(python=sys.executable, count=count)
        with subprocess.Popen(["unshare", "--mount", "sh", "-c", shell], stdout=subprocess.PIPE) as other:
            try:
                assert other.stdout is not None and other.stdout.read() == b"True"
                assert collect_facts(pid, PreflightOptions()).blockers == ()
            finally:
                other.kill()


def test_who_gave_up_the_terminal_of_its_session_is_refused(tmp_path: Path) -> None:
    script = (
        "import fcntl, pty, termios, time\nchild, master = pty.fork()\nif child == 0:\n"
        "    grandchild = os.fork()\n"
        "    if grandchild == 0: fcntl.ioctl(0, termios.TIOCNOTTY)\n"
        "    os.write(1, b'.')\n    time.sleep(1e6)\n"
        "got = 0\nwhile got < 2: got += len(os.read(master, 2))"
    )
    with python(script, tmp_path) as pid:
        try:
            (blocker,) = collect_facts(pid, PreflightOptions()).blockers
            assert blocker.code == "terminal-left" and "TIOCNOTTY" in blocker.reason
        finally:
            for member in reversed(read_family(pid, ProcReader()).members[1:]):
                os.kill(member.pid, signal.SIGKILL)
