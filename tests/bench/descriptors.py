"""What a task's open files cost inside the freeze, each, kind by kind and mixed; and what restoring them takes."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core import DumpOptions, LiveSource, RestoreOptions, dump, restore
from tests.bench.image import kill_session, session_lives
from tests.bench.sheet import Scale, Sheet
from tests.waiting import wait_until

KINDS = ("file", "duplicate", "pipe", "eventfd", "timerfd", "unix", "udp", "memfd")
ROOM = 100  # descriptors that we and the target have besides
TARGET = """
import ctypes, os, resource, signal, socket, sys
folder, count, kinds = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
libc = ctypes.CDLL(None)
def udp():
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    return [one.detach()]
make = {
    "file": lambda: [os.open(f"{folder}/{made}", os.O_RDWR | os.O_CREAT)],
    "duplicate": lambda: [os.dup(0)],
    "pipe": lambda: os.pipe(),
    "eventfd": lambda: [os.eventfd(0)],
    "timerfd": lambda: [libc.timerfd_create(1, 0)],
    "unix": lambda: [one.detach() for one in socket.socketpair()],
    "udp": udp,
    "memfd": lambda: [os.memfd_create("bench")],
}
made = turn = 0
while made < count:
    made, turn = made + len(make[kinds[turn % len(kinds)]]()), turn + 1
open(f"{folder}/ready", "w").close()
while True:
    signal.pause()
"""


def measure(scale: Scale, sheet: Sheet) -> None:
    """Each kind by itself in the smaller number, all of them mixed in both."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * max(scale.descriptors) + ROOM), hard))
    few, many = scale.descriptors
    try:
        for kind in KINDS:
            _collect(kind, few, sheet)
        for size in (few, many):
            for _ in range(min(scale.runs, 3)):
                _collect("mixed", size, sheet)
                _restore(size, sheet)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for what in ("collect", "restore"):
        first, last = (sheet.rows[f"{size:,} mixed: {what}, each"].spread[1] for size in (few, many))
        sheet.ratio(f"{what}, each: {many:,} / {few:,} mixed", last, first)


@contextmanager
def _target(kind: str, size: int) -> Iterator[subprocess.Popen[bytes]]:
    kinds = ",".join(KINDS) if kind == "mixed" else kind
    with tempfile.TemporaryDirectory(prefix="migrate-bench-") as folder:
        argv = [sys.executable, "-I", "-S", "-c", TARGET, folder, str(size), kinds]
        null = subprocess.DEVNULL
        process = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, start_new_session=True)
        try:
            wait_until(lambda: Path(folder, "ready").exists(), f"{size} descriptors", deadline_s=60)
            yield process
        finally:
            process.kill()
            process.wait()


def _collect(kind: str, size: int, sheet: Sheet) -> None:
    with _target(kind, size) as target:
        source = LiveSource(target.pid, f"migrate-bench-{os.getpid()}", DumpOptions())
        try:
            source.attach()
            source.scan()
            began = time.process_time()
            froze = source.freeze()
            busy = time.process_time() - began
        finally:
            source.thaw()
            source.close()
    each = 1e6 / size
    sheet.add(f"{size:,} {kind}: collect, each", "µs", dict(froze.phases)["collect"] * each)
    sheet.add(f"{size:,} {kind}: freeze, processor time, each", "µs", busy * each)


def _restore(size: int, sheet: Sheet) -> None:
    with _target("mixed", size) as target, tempfile.TemporaryDirectory(prefix="migrate-bench-") as folder:
        dump(target.pid, Path(folder), DumpOptions())
        target.wait(timeout=60)
        began = time.monotonic()
        report = restore(Path(folder), RestoreOptions())
        sheet.add(f"{size:,} mixed: restore, each", "µs", (time.monotonic() - began) * 1e6 / size)
        kill_session(report.pid)
        os.waitpid(report.child, 0)
        wait_until(lambda: not session_lives(report.pid), "the restored session is gone", deadline_s=60)
