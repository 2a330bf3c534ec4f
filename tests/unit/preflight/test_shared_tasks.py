"""Memory that processes share without being threads of one (CLONE_VM), before a move."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.preflight import PreflightOptions, TargetFindings, collect_facts
from core.proc.reader import ProcReader
from tests.requires import require_root
from tests.unit.preflight.targets import python


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def examine(pid: int) -> TargetFindings:
    return collect_facts(pid, PreflightOptions())


def reasons(findings: TargetFindings, code: str) -> str:
    return "".join(blocker.reason for blocker in findings.blockers if blocker.code == code)


@contextmanager
def sharing_memory(exit_signal: int, tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A process and its child that has its memory, and tells it of its end by this signal."""
    stack = "stack = ctypes.create_string_buffer(65536); top = (ctypes.addressof(stack) + 65536 - 64) & ~15"
    # The child runs `pause; jmp` from a page of its own: two threads of Python on one stack would not live long.
    code = "import mmap; page = mmap.mmap(-1, 4096, prot=7); page.write(bytes.fromhex('b8220000000f05ebf7'))"
    start = "at = ctypes.addressof(ctypes.c_char.from_buffer(page)); ctypes.c_uint64.from_address(top).value = at"
    clone = f"libc.clone(ctypes.c_void_p(at), ctypes.c_void_p(top), 0x100 | {exit_signal}, None)"
    script = f"import ctypes\n{stack}\n{code}\n{start}\n{clone}"
    with python(script, tmp_path) as pid:
        (child,) = ProcReader().children(pid)
        try:
            yield pid, child
        finally:
            os.kill(child, signal.SIGKILL)


def test_memory_shared_with_a_process_outside(tmp_path: Path) -> None:
    with sharing_memory(signal.SIGCHLD, tmp_path) as (pid, child):
        assert f"memory with process {pid}" in reasons(examine(child), "shared-task")


def test_memory_shared_inside_of_the_tree_counts_once(tmp_path: Path) -> None:
    with sharing_memory(signal.SIGCHLD, tmp_path) as (pid, _):
        found = examine(pid)
        assert not reasons(found, "shared-task") and not reasons(found, "exit-signal")
        assert found.record.memory_bytes < 1.5 * (ProcReader().status(pid).rss_anon or 0)


def test_a_child_of_the_same_memory_that_ends_otherwise_than_others(tmp_path: Path) -> None:
    with sharing_memory(0, tmp_path) as (pid, _):
        assert "by no signal" in reasons(examine(pid), "exit-signal")
