"""Real processes to look at: started apart from us, waited for until they are what they shall be, killed at the end."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.proc.reader import ProcReader
from tests.waiting import wait_until

READY = "ready"


@contextmanager
def running(*command: str, name: str) -> Iterator[int]:
    """PID of `command`, once its comm is `name` and it sleeps; no descriptors but /dev/null."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(lambda: _sleeps(process.pid, name), f"{name} to sleep")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _sleeps(pid: int, name: str) -> bool:
    status = ProcReader().status(pid)
    return status.name == name and status.state == "S"


@contextmanager
def python(script: str, folder: Path) -> Iterator[int]:
    """PID of Python after it ran `script`; the script may use `os`, `ctypes` and `libc`."""
    mark = folder / READY
    mark.unlink(missing_ok=True)  # of another one before
    text = (
        "import ctypes, os, signal\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"{script}\nos.close(os.open({str(mark)!r}, os.O_CREAT | os.O_WRONLY))\nsignal.pause()\n"
    )
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", text], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: mark.exists() or process.poll() is not None, "the script to be ready")
        assert process.poll() is None, (folder / "errors").read_text()
        yield process.pid
    finally:
        process.kill()
        process.wait()
