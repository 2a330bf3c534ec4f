"""Dump and restore of a big process in a tmpfs, beside populating as much memory by memset and copying it by memcpy."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core import DumpOptions, DumpReport, RestoreOptions, RestoreReport, dump, restore
from tests.bench.sheet import Scale, Sheet
from tests.bench.target import Target, floor, kill_session, started
from tests.waiting import wait_until

TMPFS = "/dev/shm"


def measure(scale: Scale, sheet: Sheet) -> None:
    """A new process each time; the figures of plain C from beside it."""
    for mib in scale.image_mib:
        for _ in range(scale.runs):
            memset_ns, memcpy_ns, _ = floor("memory", str(mib))
            with started("memory", str(mib)) as target:
                _there_and_back(target, mib, memset_ns / 1e9, memcpy_ns / 1e9, sheet)


def _there_and_back(target: Target, mib: int, memset_s: float, memcpy_s: float, sheet: Sheet) -> None:
    sheet.ms(f"memset of {mib} MiB, populating it", memset_s)
    sheet.ms(f"memcpy of {mib} MiB, populated", memcpy_s)
    with _dumped(target, DumpOptions(leave_running=True, page_mode="splice")) as (_, _, spliced_s):
        pass
    with _dumped(target, DumpOptions()) as (folder, dumped, dump_s):
        restored, restore_s = restore_once(target, folder)
    for name, seconds in dumped.phases:
        sheet.ms(f"{mib} MiB, dump: {name}", seconds)
    for name, seconds in restored.phases:
        sheet.ms(f"{mib} MiB, restore: {name}", seconds)
    for what, seconds in (("dump by read", dump_s), ("dump by splice", spliced_s), ("restore", restore_s)):
        sheet.ms(f"{mib} MiB, {what}, all of it", seconds)
        sheet.ratio(f"{mib} MiB, {what} / memcpy", seconds, memcpy_s)
        sheet.ratio(f"{mib} MiB, {what} / memset", seconds, memset_s)


@contextmanager
def _dumped(target: Target, options: DumpOptions) -> Iterator[tuple[Path, DumpReport, float]]:
    """A dump in a tmpfs, what it says of itself, and the seconds."""
    with tempfile.TemporaryDirectory(prefix="migrate-bench-", dir=TMPFS) as folder:
        began = time.monotonic()
        report = dump(target.pid, Path(folder), options)
        yield Path(folder), report, time.monotonic() - began


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
