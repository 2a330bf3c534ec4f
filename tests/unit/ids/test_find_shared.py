"""What tasks share, told by the kernel for all of them at once."""

import math
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from core.ids.orders import TaskOrders
from core.ids.shared import KCMP_FILES, KCMP_FS, KCMP_SIGHAND, KCMP_VM, SharedIds
from core.kernel.calls import find_shared


@contextmanager
def children(count: int) -> Iterator[list[int]]:
    """Processes that sleep."""
    read_end, write_end = os.pipe()
    pids = []
    try:
        for _ in range(count):
            pids.append(pid := os.fork())
            if not pid:
                os.close(write_end)
                os.read(read_end, 1)
                os._exit(0)
        yield pids
    finally:
        os.close(read_end)
        os.close(write_end)
        for pid in pids:
            os.waitpid(pid, 0)


def test_nothing_is_shared_after_a_fork_and_it_takes_n_log_n_comparisons() -> None:
    with children(40) as pids:
        for kind in (KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND):
            same, _, comparisons = find_shared(pids, kind)
            assert same == list(range(len(pids)))
            assert comparisons <= 2 * len(pids) * math.log2(len(pids))


def test_tasks_in_the_order_that_was_found_before_take_a_comparison_each() -> None:
    with children(40) as pids:
        order = find_shared(pids, KCMP_VM).order
        assert find_shared(pids, KCMP_VM, likely=order).comparisons == len(pids) - 1
        assert find_shared(pids, KCMP_VM, likely=order[::-1]).order == order
        orders = TaskOrders()
        twice = [*pids, *reversed(pids)]
        for tasks in (pids, pids[::-1], twice, twice[::-1], pids[10:], twice):
            assert orders.find_shared(tasks, KCMP_VM) == [tasks.index(pid) for pid in tasks]


def test_the_same_task_shares_everything_with_itself() -> None:
    with children(2) as (one, other):
        assert find_shared([one, other, one, other], KCMP_VM)[0] == [0, 1, 0, 1]


def test_ids_are_the_same_whether_learnt_at_once_or_one_by_one() -> None:
    with children(5) as pids:
        at_once, one_by_one = SharedIds(), SharedIds()
        at_once.compare(pids)
        for pid in (*pids, *pids):
            assert at_once.vm(pid) == one_by_one.vm(pid)
            assert at_once.files(pid) == one_by_one.files(pid)


def test_nobody_is_said_to_share_while_some_execute_programs(tmp_path: Path) -> None:
    script = tmp_path / "again"
    script.write_text('exec /bin/sh "$0"\n')
    with children(30) as sleepers, ExitStack() as stack:
        pids = list(sleepers)
        for _ in range(3):
            again = stack.enter_context(subprocess.Popen(["/bin/sh", str(script)]))
            stack.callback(again.kill)
            pids.insert(len(sleepers) // 2, again.pid)
        for _ in range(300):
            assert find_shared(pids, KCMP_VM)[0] == list(range(len(pids)))
