"""Pages that process_vm_writev(2) is writing to in the moment of a look go over as they are once it has ended."""

import time
from pathlib import Path

import pytest

from core import DumpOptions, dump, pre_dump
from core.errors import MigrateError
from core.memory.dirty.choose import probe_tracker_kind
from tests.requires import require, require_root
from tests.roundtrip.dirty_exact import build
from tests.roundtrip.slow_writer import SOURCE, copy_while_written, scene, target_of


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_root()
    require(probe_tracker_kind() != "hash", "a tracker of the kernel's")
    return build(tmp_path_factory.mktemp("writer"), SOURCE)


@pytest.mark.parametrize("kind", ["private", "shared"])
def test_pages_that_are_written_to_in_a_look_are_right_in_the_copy(program: Path, kind: str) -> None:
    assert not copy_while_written(program, None, kind)


def test_the_freeze_is_refused_while_another_process_writes_into_the_tree(program: Path) -> None:
    with scene(program, None, "private") as now:
        pid, writer = now.target.pid, now.target.begin_write()
        with pytest.raises(
            MigrateError, match=rf"process {writer.pid} is writing into pid {pid} \(process_vm_writev\)"
        ):
            now.source.freeze()
        writer.end_write()
        now.source.freeze()
        now.take()
        assert not now.old()


def test_who_writes_into_another_process_holds_nobody_up(program: Path) -> None:
    with target_of(program, "private") as other, scene(program, None, "private") as now:
        other.begin_write()
        began = time.monotonic()
        now.source.scan()
        pending = now.source.processes[now.target.pid].pending
        now.source.scan()
        now.source.freeze()
        assert now.source.processes[now.target.pid].pending.total <= pending.total
        assert time.monotonic() - began < 10


def test_pages_that_are_written_to_in_a_pre_dump_are_in_the_next_dump(program: Path, tmp_path: Path) -> None:
    first, last = tmp_path / "1", tmp_path / "2"
    first.mkdir(), last.mkdir()
    with target_of(program, "private") as target:
        writer = target.begin_write()
        pre_dump(target.pid, first, DumpOptions())
        writer.end_write()
        dump(target.pid, last, DumpOptions(prev_images_dir="../1"))
        content = (last / "pages-1.img").read_bytes()
        assert content.count(b"\2" * 4096) == 16
