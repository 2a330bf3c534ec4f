"""Runs inside a guest: dumps each program with one of two engines, ours and criu, and restores it with the other.

`beside_criu.py PROGRAMS_FOLDER NAME…` prints a line of JSON for each program and direction: what came of it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from core import DumpOptions, FileChoices, RestoreOptions, dump, restore
from core.errors import MigrateError

QUIET = subprocess.DEVNULL
SCRATCH = Path("/srv/beside-criu")
READY_S, RESULT_S, CRIU_S = 120, 180, 120
CRIU_OPTIONS = ("--file-locks", "--link-remap", "--ext-unix-sk", "--ghost-limit", "128M", "-v2", "-o", "criu.log")


class Failed(Exception):
    """Something did not work; its text says which step, and how."""


def main() -> None:
    """Both directions of each program."""
    programs, names = Path(sys.argv[1]), sys.argv[2:]
    directions: dict[str, tuple[Callable[[int, Path], None], Callable[[Path], None]]] = {
        "ours, then criu": (dump_by_us, restore_by_criu),
        "criu, then ours": (dump_by_criu, restore_by_us),
    }
    for name in names:
        for direction, (dump_one, restore_one) in directions.items():
            begin = time.monotonic()
            try:
                carry(programs / name, dump_one, restore_one)
                outcome = "PASS"
            except (Failed, MigrateError, OSError) as error:
                outcome = str(error)
            took_s = round(time.monotonic() - begin, 1)
            print(
                json.dumps({"program": name, "direction": direction, "outcome": outcome, "took_s": took_s}), flush=True
            )


def carry(binary: Path, dump_one: Callable[[int, Path], None], restore_one: Callable[[Path], None]) -> None:
    """Start it, dump it, restore it, let it check itself; nothing of it is left."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    folder, images = SCRATCH / "run", SCRATCH / "images"
    folder.mkdir(parents=True)
    images.mkdir()
    process = subprocess.Popen(
        ["nice", "-n", "19", binary, folder], stdin=QUIET, stdout=QUIET, stderr=QUIET, start_new_session=True,
        cwd="/srv", env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    )  # fmt: skip
    try:
        wait_for(lambda: (folder / "ready").exists() or process.poll() is not None, READY_S, "is not ready")
        members = in_session(process.pid)
        dump_one(process.pid, images)
        process.wait(timeout=READY_S)
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in members), READY_S, "leaves its PIDs taken")
        restore_one(images)
        (folder / "go").touch()
        wait_for(lambda: (folder / "result").exists(), RESULT_S, "says nothing any more")
        if (result := (folder / "result").read_text()) != "PASS":
            raise Failed(result)
    finally:
        for pid in in_session(process.pid):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: reap() and not in_session(process.pid), READY_S, "does not end")


def dump_by_us(pid: int, images: Path) -> None:
    """As `migrate dump` does."""
    choices = FileChoices(ext_unix_sk=True, file_locks=True, link_remap=True)
    dump(pid, images, DumpOptions(files=choices))


def restore_by_us(images: Path) -> None:
    """As `migrate restore` does."""
    restore(images, RestoreOptions())


def dump_by_criu(pid: int, images: Path) -> None:
    """criu(8)."""
    criu("dump", "-t", str(pid), "-D", str(images))


def restore_by_criu(images: Path) -> None:
    """Detached: it leaves once the tree runs."""
    criu("restore", "-d", "-D", str(images))


def criu(command: str, *options: str) -> None:
    """One run of it; Failed with the first error of its log."""
    done = subprocess.run(
        ["criu", command, *options, *CRIU_OPTIONS], stdin=QUIET, stdout=QUIET, stderr=QUIET, timeout=CRIU_S
    )  # fmt: skip
    if done.returncode:
        log = (SCRATCH / "images/criu.log").read_text(errors="replace").splitlines()
        error = next((line.partition("Error ")[2] for line in log if "Error (" in line), f"exit {done.returncode}")
        raise Failed(f"criu {command}: {error}")


def wait_for(condition: Callable[[], bool], limit_s: float, trouble: str) -> None:
    """Failed when it does not come true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(trouble)
        time.sleep(0.05)


def in_session(leader: int) -> list[int]:
    """Who is left of a program: processes of its session, or below it."""
    found: dict[int, tuple[int, int]] = {}  # pid → parent, session
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                words = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if words[0] not in "ZX":
                found[int(entry.name)] = int(words[1]), int(words[3])
    members = {pid for pid, (_, session) in found.items() if leader in (pid, session)}
    while more := {pid for pid, (parent, _) in found.items() if parent in members} - members:
        members |= more
    return sorted(members)


def reap() -> bool:
    """Of children, those that have ended: what we restored is ours."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    return True


if __name__ == "__main__":
    main()
