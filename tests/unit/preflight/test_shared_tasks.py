"""Memory that processes share without being threads of one (CLONE_VM), before a move."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import DumpOptions, dump
from core.errors import Refused
from core.plan.births import CLONE_VM
from core.preflight import PreflightOptions, TargetFindings, collect_facts
from core.proc.reader import ProcReader
from core.tracee.family import has_ended
from tests.requires import require_root
from tests.unit.preflight.targets import python
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def examine(pid: int) -> TargetFindings:
    return collect_facts(pid, PreflightOptions())


def reasons(findings: TargetFindings, code: str) -> str:
    return "".join(blocker.reason for blocker in findings.blockers if blocker.code == code)


@contextmanager
def with_child(flags: int, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A process and its child; `flags` of clone(2), which end with the signal that tells of the child's end."""
    stack = "stack = ctypes.create_string_buffer(65536); top = (ctypes.addressof(stack) + 65536 - 64) & ~15"
    # The child runs `pause; jmp` from a page of its own: two threads of Python on one stack would not live long.
    code = "import mmap; page = mmap.mmap(-1, 4096, prot=7); page.write(bytes.fromhex('b8220000000f05ebf7'))"
    start = "at = ctypes.addressof(ctypes.c_char.from_buffer(page)); ctypes.c_uint64.from_address(top).value = at"
    clone = f"libc.clone(ctypes.c_void_p(at), ctypes.c_void_p(top), {flags}, None)"
    script = f"import ctypes\n{stack}\n{code}\n{start}\n{clone}"
    with python(script, tmp_path) as pid:
        (child,) = ProcReader().children(pid)
        try:
            yield pid, child
        finally:
            os.kill(child, signal.SIGKILL)


def test_memory_shared_with_a_process_outside(tmp_path: Path) -> None:
    with with_child(CLONE_VM | signal.SIGCHLD, tmp_path) as (pid, child):
        assert f"memory with process {pid}" in reasons(examine(child), "shared-task")


def test_memory_shared_inside_of_the_tree_counts_once(tmp_path: Path) -> None:
    with with_child(CLONE_VM | signal.SIGCHLD, tmp_path) as (pid, _):
        found = examine(pid)
        assert not reasons(found, "shared-task") and not reasons(found, "exit-signal")
        assert found.record.memory_bytes < 1.5 * (ProcReader().status(pid).rss_anon or 0)


@pytest.mark.parametrize(("flags", "how"), [(CLONE_VM, "by no signal"), (signal.SIGURG, "by signal 23")])
def test_a_child_that_ends_otherwise_than_others(flags: int, how: str, tmp_path: Path) -> None:
    with with_child(flags, tmp_path) as (pid, child):
        assert how in reasons(examine(pid), "exit-signal")
        assert not reasons(examine(child), "exit-signal")
        for _ in ("it lives", "nobody has waited for it"):
            with pytest.raises(Refused) as refused:
                dump(pid, tmp_path, DumpOptions())
            assert refused.value.blockers[0].code == "exit-signal"
            assert ProcReader().exists(child)
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: has_ended(child, ProcReader()), "it has ended")
