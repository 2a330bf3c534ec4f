"""Who shares what, by kcmp(2): descriptors of many tasks, half of them inherited, half of them open files of their own
that look alike in everything but the order that the kernel tells; and what tasks share as a whole."""

import math
import time

from core.ids.shared import KCMP_FS, SharedIds
from core.kernel.calls import find_shared, kcmp
from core.proc.reader import ProcReader
from core.tracee.family import read_family
from tests.bench.sheet import Scale, Sheet
from tests.bench.target import started


class Counting:
    """kcmp(2), counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
        self.calls += 1
        return kcmp(pid1, pid2, kind, index1, index2)


def measure(scale: Scale, sheet: Sheet) -> None:
    """100 descriptors in each of scale.file_tasks tasks, as a dump numbers them."""
    for _ in range(min(scale.runs, 3)):
        with started("files", str(scale.file_tasks)) as target:
            pids = [member.pid for member in read_family(target.pid, ProcReader()).living]
            _number_files(pids, sheet)
            _compare_tasks(pids, sheet)


def _number_files(pids: list[int], sheet: Sheet) -> None:
    reader, counting = ProcReader(), Counting()
    places = [(pid, fd) for pid in pids for fd in reader.fds(pid)]
    ids = SharedIds(counting)
    began = time.monotonic()
    numbers = {ids.file(pid, fd, reader.fd_link(pid, fd))[0] for pid, fd in places}
    seconds = time.monotonic() - began
    what = f"{len(places):,} descriptors in {len(pids)} tasks"
    sheet.add(f"{what}: open files", "", len(numbers))
    sheet.add(f"{what}: comparisons, each", "", counting.calls / len(places))
    sheet.ratio(f"{what}: comparisons / N log2 N", counting.calls, len(places) * math.log2(len(places)))
    sheet.add(f"{what}: link and number, each", "µs", seconds * 1e6 / len(places))


def _compare_tasks(pids: list[int], sheet: Sheet) -> None:
    began = time.monotonic()
    comparisons = find_shared(pids, KCMP_FS).comparisons
    seconds = time.monotonic() - began
    sheet.ratio(f"{len(pids)} tasks: comparisons / N log2 N", comparisons, len(pids) * math.log2(len(pids)))
    sheet.add(f"{len(pids)} tasks: compared in one call, each", "µs", seconds * 1e6 / len(pids))
