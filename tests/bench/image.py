"""Dump and restore of a big process in a tmpfs, beside populating as much memory by memset and copying it by memcpy."""

import os
import tempfile
import time
from pathlib import Path

from core import DumpOptions, RestoreOptions, dump
from core.restore import RestoreReport, restore
from tests.bench.sheet import Scale, Sheet
from tests.bench.target import Target, floor, kill_session, started
from tests.waiting import wait_until

TMPFS = "/dev/shm"


def measure(scale: Scale, sheet: Sheet) -> None:
    """A new process each time; the figures of plain C from beside it."""
    for _ in range(scale.runs):
        memset_ns, memcpy_ns, _ = floor("memory", str(scale.image_mib))
        with started("memory", str(scale.image_mib)) as target:
            _there_and_back(target, scale.image_mib, memset_ns / 1e9, memcpy_ns / 1e9, sheet)


def _there_and_back(target: Target, mib: int, memset_s: float, memcpy_s: float, sheet: Sheet) -> None:
    sheet.ms(f"memset of {mib} MiB, populating it", memset_s)
    sheet.ms(f"memcpy of {mib} MiB, populated", memcpy_s)
    with tempfile.TemporaryDirectory(prefix="migrate-bench-", dir=TMPFS) as folder:
        began = time.monotonic()
        dumped = dump(target.pid, Path(folder), DumpOptions())
        dump_s = time.monotonic() - began
        restored, restore_s = restore_once(target, Path(folder))
    for name, seconds in dumped.phases:
        sheet.ms(f"dump: {name}", seconds)
    for name, seconds in restored.phases:
        sheet.ms(f"restore: {name}", seconds)
    for what, seconds in (("dump", dump_s), ("restore", restore_s)):
        sheet.ms(f"{what}, all of it", seconds)
        sheet.ratio(f"{what} / memcpy", seconds, memcpy_s)
        sheet.ratio(f"{what} / memset", seconds, memset_s)


def restore_once(target: Target, folder: Path) -> tuple[RestoreReport, float]:
    """Restore what was dumped to `folder`, and end it: what was done, and in how many seconds."""
    target.process.wait(timeout=60)
    began = time.monotonic()
    report = restore(folder, RestoreOptions())
    seconds = time.monotonic() - began
    kill_session(report.pid)
    os.waitpid(report.child, 0)
    wait_until(lambda: not session_lives(report.pid), "the restored session is gone", deadline_s=60)
    return report, seconds


def session_lives(pid: int) -> bool:
    """Is there anybody in the process group `pid`, if only a zombie?"""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True
