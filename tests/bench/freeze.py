"""Freeze, collect and thaw of many threads and of many tasks, per one of them, against plain C that stops the same
target, reads its registers and lets it go; and what a restore of as many takes."""

import os
import tempfile
import time
from pathlib import Path

from core import DumpOptions, LiveSource, dump
from core.proc.reader import ProcReader
from core.tracee.family import read_family
from tests.bench.image import restore_once, session_lives
from tests.bench.sheet import Scale, Sheet
from tests.bench.target import Target, floor, started
from tests.waiting import wait_until

CROWD_RUNS = 3  # at most: a thousand tasks take half a minute on a busy machine


def measure_threads(scale: Scale, sheet: Sheet) -> None:
    """Threads of one process."""
    _measure("threads", "threads", scale.threads, scale, sheet)


def measure_trees(scale: Scale, sheet: Sheet) -> None:
    """Children of one process."""
    _measure("tree", "tasks", scale.trees, scale, sheet)


def _measure(mode: str, unit: str, sizes: tuple[int, ...], scale: Scale, sheet: Sheet) -> None:
    for size in sizes:
        for _ in range(min(scale.runs, CROWD_RUNS)):
            with started(mode, str(size)) as target:
                _one_freeze(target, f"{size:,} {unit}", size, sheet)
                _one_restore(target, f"{size:,} {unit}", size, sheet)
    for figure in ("freeze to thaw", "restore"):
        first, last = (sheet.rows[f"{size:,} {unit}: {figure}, each"].spread[1] for size in (sizes[0], sizes[-1]))
        sheet.ratio(f"{figure}, each: {sizes[-1]:,} / {sizes[0]:,} {unit}", last, first)


def _one_freeze(target: Target, what: str, size: int, sheet: Sheet) -> None:
    family = read_family(target.pid, ProcReader())
    floor_ns, tasks = floor("freeze", *(str(member.pid) for member in family.living))
    if tasks != size:
        raise RuntimeError(f"{what}: {tasks} found")
    source = LiveSource(target.pid, f"migrate-bench-{os.getpid()}", DumpOptions())
    try:
        began = time.monotonic()
        source.attach()
        source.scan()
        attached = time.monotonic()
        froze = source.freeze()  # for froze.ran_s of it they run still
        frozen = time.monotonic()
    finally:
        ended = source.thaw()  # what it does when all of them run does not count
        source.close()
    each = 1e6 / size
    sheet.add(f"{what}: plain C, each", "µs", floor_ns / 1e3 / size)
    sheet.add(f"{what}: attach and first scan (runs), each", "µs", (attached - began) * each)
    for name, seconds in (*froze.phases, ("thaw", ended - frozen)):
        sheet.add(f"{what}: {name}, each", "µs", seconds * each)
    stood_s = ended - attached - froze.ran_s
    sheet.add(f"{what}: freeze to thaw, each", "µs", stood_s * each)
    sheet.ratio(f"{what}: freeze to thaw / plain C", stood_s, floor_ns / 1e9)


def _one_restore(target: Target, what: str, size: int, sheet: Sheet) -> None:
    with tempfile.TemporaryDirectory(prefix="migrate-bench-", dir="/dev/shm") as folder:
        dumped = dump(target.pid, Path(folder), DumpOptions())
        target.process.wait(timeout=60)
        wait_until(lambda: not session_lives(target.pid), "the dumped session is gone", deadline_s=60)
        report, seconds = restore_once(target, Path(folder))
    each = 1e6 / size
    sheet.add(f"{what}: dump, each", "µs", sum(seconds for _, seconds in dumped.phases) * each)
    for name, part in report.phases:
        sheet.add(f"{what}: restore, {name}, each", "µs", part * each)
    sheet.add(f"{what}: restore, each", "µs", seconds * each)
