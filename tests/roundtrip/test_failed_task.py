"""A task of a tree that cannot be made, at whichever stage, takes all others with it; the error names it."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from core.errors import RestoreError
from core.images import kinds
from core.images.store import ImageSet, read_directory
from core.plan.ops import Syscall, path_argument
from core.task_plan import Stage, Step, TreePlan
from core.tracee.cgroup import cgroup2_path
from core.tracee.orphans import reaping
from core.tree import STAGES
from tests.requires import require_root
from tests.roundtrip.targets import READER, own_fds, ready
from tests.roundtrip.test_failed_restore import occupant

PROGRAM = "tree_workers.c"
RESTORE = import_module("core.restore")  # of which core exports the function of that name


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[int], Path]]:
    """PIDs of a tree, the root first, and its images; it is gone."""
    require_root()
    folder = tmp_path_factory.mktemp("tree")
    images = folder / "images"
    images.mkdir()
    with ready(PROGRAM, folder) as run:
        pids = [run.pid, *READER.children(run.pid)]
        assert len(pids) > 2
        with reaping(pids[1:]):
            dump(run.pid, images, DumpOptions())
            run.stop()
    yield pids, images


def failing(pid: int, stage: Stage) -> Callable[..., TreePlan]:
    """The compiler of plans, with one more operation for `pid` at the end of `stage`: one that fails."""
    compile_tree = RESTORE.compile_tree

    def compiled(images: ImageSet, launcher_bounding: int, options: RestoreOptions) -> TreePlan:
        plan = compile_tree(images, launcher_bounding, options)
        bad = Syscall("openat", (0, path_argument("/nowhere/at/all"), 0, 0), "fd 99 (/nowhere/at/all)")
        tasks = [
            replace(task, steps=(*task.steps, Step(stage, pid, (bad,)))) if task.pid == pid else task
            for task in plan.tasks
        ]
        return replace(plan, tasks=tuple(tasks))

    return compiled


def assert_nothing_left(pids: list[int], ours: dict[int, str]) -> None:
    assert [pid for pid in pids if READER.exists(pid)] == []
    assert own_fds() == ours
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    cgroup = Path(cgroup2_path(os.getpid()), "cgroup.procs").read_text().split()
    assert not set(map(str, pids)) & set(cgroup)


@pytest.mark.parametrize("stage", STAGES)
def test_it_is_named_with_operation_object_and_reason_and_nothing_stays(
    stage: Stage, dumped: tuple[list[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, images = dumped
    ours = own_fds()
    monkeypatch.setattr(RESTORE, "compile_tree", failing(pids[1], stage))
    with pytest.raises(RestoreError) as caught:
        restore(images, RestoreOptions())
    for word in (f"pid {pids[1]}", "openat", errno.errorcode[errno.ENOENT], "fd 99 (/nowhere/at/all)"):
        assert word in caught.value.message, caught.value.message
    assert_nothing_left(pids, ours)


def test_one_that_cannot_be_born_is_named_and_nothing_stays(dumped: tuple[list[int], Path]) -> None:
    pids, images = dumped
    ours = own_fds()
    with occupant(pids[-1]), pytest.raises(RestoreError) as caught:
        restore(images, RestoreOptions())
    assert f"pid {pids[-1]}: clone3(set_tid) in pid {pids[0]}" in caught.value.message
    assert "that PID is taken" in (caught.value.hint or "")
    assert_nothing_left(pids, ours)


def test_one_whose_memory_cannot_be_mapped_is_named_and_nothing_stays(
    dumped: tuple[list[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, images = dumped
    ours = own_fds()
    read = RESTORE.read_directory

    def without_its_file(directory: Path) -> ImageSet:
        found = read(directory)
        for vma in found.one(kinds.MM, pids[1]).vmas:
            vma.shmid = found.one(kinds.MM, pids[1]).exe_file_id if vma.shmid else 0
        for entry in found.all(kinds.FILES):
            if entry.id == found.one(kinds.MM, pids[1]).exe_file_id:
                entry.reg.name = "/nowhere/program"
                entry.reg.ClearField("size")
        return found

    monkeypatch.setattr(RESTORE, "read_directory", without_its_file)
    with pytest.raises(RestoreError) as caught:
        restore(images, RestoreOptions())
    assert "/nowhere/program" in caught.value.message and "ENOENT" in caught.value.message
    assert_nothing_left(pids, ours)


def test_the_same_images_can_be_restored_after_all_that(dumped: tuple[list[int], Path]) -> None:
    pids, images = dumped
    assert [entry.pid for entry in read_directory(images).all(kinds.PSTREE)] == pids
    with reaping(pids[1:]):
        report = restore(images, RestoreOptions())
        assert report.pid == pids[0] and all(READER.exists(pid) for pid in pids)
        for pid in pids:
            os.kill(pid, 9)
        os.waitpid(pids[0], 0)
