"""Chains of pre-dumps and a last dump: the copy is exact, only changes travel, and a parent that is none is refused."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from core import DumpOptions, PreflightOptions, RestoreOptions, collect_facts, dump, pre_dump, restore
from core.errors import ImageError, Refused
from core.images import kinds
from core.images.dedup import punch_superseded
from core.images.store import read_directory, write_directory
from core.memory.dirty.kept import find_any_tracker
from tests.program_build import Run, start_here
from tests.requires import require_root
from tests.roundtrip.targets import READER, children, ended_afterwards, look_at, ready
from tests.seeds import random_numbers
from tests.waiting import wait_until

NORMALLY = RestoreOptions()


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def directories(tmp_path: Path, count: int) -> list[Path]:
    """images/1, images/2, …"""
    made = [tmp_path / "images" / str(number + 1) for number in range(count)]
    for directory in made:
        directory.mkdir(parents=True)
    return made


def options(previous: Path | None = None, **more: bool | str) -> DumpOptions:
    return DumpOptions(prev_images_dir=f"../{previous.name}" if previous else None, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("more", [{}, {"auto_dedup": True}, {"page_mode": "splice"}], ids=["", "dedup", "splice"])
@pytest.mark.parametrize("name", ["memory_churn.c", "memory_writer.c"])
def test_a_program_that_writes_throughout_passes_after_three_pre_dumps(
    name: str, more: dict[str, bool | str], tmp_path: Path
) -> None:
    *before, last = directories(tmp_path, 4)
    with ready(name, tmp_path) as run:
        for directory, previous in zip(before, [None, *before], strict=False):
            assert not pre_dump(run.pid, directory, options(previous, **more)).notices
        dumped = dump(run.pid, last, options(before[-1], **more))
        assert not dumped.notices and dumped.inherited > 0
        finish(run, last)


def kept(pid: int) -> int:
    """The keeper of a process's tracker."""
    tracker = find_any_tracker(pid)
    assert tracker is not None
    assert tracker.keeper not in (0, os.getpid())
    return tracker.keeper


def finish(run: Run, images: Path, how: RestoreOptions = NORMALLY) -> None:
    """The last dump's copy is right."""
    run.stop()
    with ended_afterwards(restore(images, how).pid):
        run.release()
        assert run.result() == "PASS"


def test_where_nothing_can_track_the_pages_are_compared_and_the_copy_is_exact(tmp_path: Path) -> None:
    first, last = directories(tmp_path, 2)
    with ready("memory_churn.c", tmp_path) as run:
        pre_dump(run.pid, first, options(track="hash"))
        assert find_any_tracker(run.pid) is None
        assert ["nobody has tracked it since" in one for one in dump(run.pid, last, options(first)).notices] == [True]
        finish(run, last)


def test_without_its_keeper_the_pages_are_compared_and_the_copy_is_exact(tmp_path: Path) -> None:
    first, second, last = directories(tmp_path, 3)
    with ready("memory_writer.c", tmp_path) as run:
        pre_dump(run.pid, first, options())
        keeper = kept(run.pid)
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: find_any_tracker(run.pid) is None, "the keeper is gone")
        compared = pre_dump(run.pid, second, options(first))
        assert ["nobody has tracked it since" in notice for notice in compared.notices] == [True]
        assert compared.inherited > 0
        assert not dump(run.pid, last, options(second)).notices
        finish(run, last)


def test_a_parent_that_is_not_the_last_dump_is_compared_and_the_copy_is_exact(tmp_path: Path) -> None:
    first, second, last = directories(tmp_path, 3)
    with ready("memory_churn.c", tmp_path) as run:
        pre_dump(run.pid, first, options())
        pre_dump(run.pid, second, options(first))
        report = dump(run.pid, last, options(first))
        assert ["tracked since another dump" in notice for notice in report.notices] == [True]
        finish(run, last)


def test_after_an_exec_the_parent_serves_as_far_as_its_bytes_are_the_same(tmp_path: Path) -> None:
    first, second, last = directories(tmp_path, 3)
    go = tmp_path / "go"
    process = start_here(["/bin/sh", "-c", f"while [ ! -e {go} ]; do :; done; exec /bin/sleep 1000"])
    try:
        pre_dump(process.pid, first, options())
        go.touch()
        wait_until(lambda: READER.comm(process.pid) == "sleep", "it has become another program")
        assert pre_dump(process.pid, second, options(first)).notices
        assert not dump(process.pid, last, options(second)).notices
        process.wait(timeout=60)
        report = restore(last, RestoreOptions())
        with ended_afterwards(report.pid):
            assert READER.comm(report.pid) == "sleep"
    finally:
        process.kill()
        process.wait(timeout=60)


def test_the_keeper_ends_with_the_last_dump_and_with_the_process(tmp_path: Path) -> None:
    first, second, last = directories(tmp_path, 3)
    with ready("memory_holes.c", tmp_path) as run:
        pre_dump(run.pid, first, options())
        keeper = kept(run.pid)
        dump(run.pid, second, options(first, leave_running=True))
        wait_until(lambda: not READER.exists(keeper), "the keeper has ended with the last dump")
        assert not any("uw" in one.flags for one in READER.smaps(run.pid))
        pre_dump(run.pid, last, options())
        keeper = kept(run.pid)
        run.release()
        assert run.result() == "PASS"
    wait_until(lambda: not READER.exists(keeper), "the keeper has ended with the process")


def test_what_a_pre_dump_tracks_can_still_be_dumped_whole_and_is_no_blocker(tmp_path: Path) -> None:
    first, last = directories(tmp_path, 2)
    with ready("memory_writer.c", tmp_path) as run:
        pre_dump(run.pid, first, options())
        assert not [one for one in collect_facts(run.pid, PreflightOptions()).blockers if one.code == "vma-kind"]
        assert dump(run.pid, last, options()).inherited == 0
        finish(run, last)


def test_a_parent_that_is_none_is_refused_by_name_and_the_process_runs_on(tmp_path: Path) -> None:
    first, other, last = directories(tmp_path, 3)
    with ready("memory_writer.c", tmp_path) as run, ready("memory_holes.c", tmp_path / "other") as stranger:
        pre_dump(stranger.pid, other, options())
        pre_dump(run.pid, first, options())
        for previous, match in (("../9", "9: is missing"), ("../2", "does not hold this process"), (".", "itself"),
                                (str(first), "absolute path")):  # fmt: skip
            with pytest.raises(Refused, match=match):
                dump(run.pid, last, DumpOptions(prev_images_dir=previous))
        change_start_time(first)
        with pytest.raises(Refused, match="was another process then"):
            pre_dump(run.pid, last, options(first))
        (first / "inventory.img").unlink()
        with pytest.raises(ImageError, match=r"1: holds no inventory\.img"):
            dump(run.pid, last, options(first))
        assert os.listdir(last) == []
        run.release()
        assert run.result() == "PASS"
        stranger.release()
        assert stranger.result() == "PASS"


def change_start_time(directory: Path) -> None:
    images = read_directory(directory)
    for task in images.one(kinds.INVENTORY).tasks:
        task.start_time -= 1
    write_directory(images, directory)


@dataclass(frozen=True, slots=True)
class Chain:
    pid: int
    images: Path

    def copy(self, to: Path) -> Path:
        """All of it again, to be spoilt: its last directory."""
        shutil.copytree(self.images, to, symlinks=True)
        return to / "3"

    def error(self, last: Path) -> str:
        """What a restore says; nothing of it is left."""
        before = children()
        with pytest.raises(ImageError) as found:
            restore(last, RestoreOptions())
        assert not READER.exists(self.pid)
        assert children() == before
        return found.value.message


@pytest.fixture(scope="module", params=[False, True], ids=["", "deduplicated"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    require_root()
    directory = tmp_path_factory.mktemp("chain")
    made = directories(directory, 3)
    dedup = bool(request.param)
    with ready("memory_writer.c", directory) as run:
        pre_dump(run.pid, made[0], options(auto_dedup=dedup))
        pre_dump(run.pid, made[1], options(made[0], auto_dedup=dedup))
        dump(run.pid, made[2], options(made[1], auto_dedup=dedup))
        return Chain(run.pid, made[0].parent)


def test_a_flipped_byte_in_any_pages_file_of_a_chain_is_found_and_named(chain: Chain, tmp_path: Path) -> None:
    numbers = random_numbers()
    last = chain.copy(tmp_path / "copy")
    for pages in sorted(last.parent.glob("*/pages-*.img")):
        content = pages.read_bytes()
        anywhere = numbers.sample(range(len(content)), min(len(content), 3000))
        for at in [at for at in anywhere if content[at]][:6]:  # a hole that was punched has no byte to be flipped
            with open(pages, "r+b") as file:
                os.pwrite(file.fileno(), bytes([content[at] ^ 1]), at)
                message = chain.error(last)
                assert f"the page at offset {at & ~4095:#x}," in message, message
                assert f"{pages.parent.name}/{pages.name}" in os.path.realpath(message.partition(":")[0]), message
                os.pwrite(file.fileno(), content[at : at + 1], at)


def test_a_chain_without_one_of_its_parents_or_with_another_is_refused_by_name(chain: Chain, tmp_path: Path) -> None:
    last = chain.copy(tmp_path / "missing")
    shutil.rmtree(last.parent / "1")
    assert "leads to ../1, which is not a directory" in chain.error(last)
    last = chain.copy(tmp_path / "foreign")
    shutil.rmtree(last.parent / "1")
    shutil.copytree(last, last.parent / "1", symlinks=True)
    assert "is not the dump that" in chain.error(last)
    last = chain.copy(tmp_path / "unlinked")
    (last / "parent").unlink()
    assert "parent: is missing" in chain.error(last)


def test_deduplication_gives_back_what_newer_pages_replace(tmp_path: Path) -> None:
    first, second = directories(tmp_path, 2)
    with ready("memory_writer.c", tmp_path) as run:
        pre_dump(run.pid, first, options())
        [pages] = first.glob("pages-*.img")
        before = pages.stat()
        wait_until(lambda: pre_dump(run.pid, second, options(first)).pages > 100, "it has written 100 pages")
        punch_superseded(second)
        assert pages.stat().st_blocks * 512 <= before.st_blocks * 512 - 100 * 4096
        assert pages.stat().st_size == before.st_size


def test_a_restore_that_deduplicates_gives_back_the_pages_of_the_whole_chain(tmp_path: Path) -> None:
    first, last = directories(tmp_path, 2)
    with ready("shared_memfds.c", tmp_path) as run:
        pre_dump(run.pid, first, options())
        dump(run.pid, last, options(first))
        finish(run, last, RestoreOptions(auto_dedup=True))
    [*pages] = last.parent.glob("*/pages-*.img")
    assert len(pages) > 2
    assert sum(one.stat().st_blocks for one in pages) < sum(one.stat().st_size for one in pages) // 512 // 4
    with pytest.raises(ImageError, match="the page at offset"):
        restore(last, RestoreOptions())


@pytest.mark.parametrize("name", ["memory_protection.c", "memory_holes.c", "memory_many_vmas.c", "fd_table.c"])
def test_what_splicing_does_not_take_is_read_and_nothing_is_left_in_the_process(name: str, tmp_path: Path) -> None:
    before, last = directories(tmp_path, 2)
    with ready(name, tmp_path) as run:
        seen = look_at(run.pid)
        pre_dump(run.pid, before, options(page_mode="splice"))
        after = look_at(run.pid)
        assert (after.fds, after.status) == (seen.fds, seen.status)
        dump(run.pid, last, options(page_mode="splice"))
        finish(run, last)
