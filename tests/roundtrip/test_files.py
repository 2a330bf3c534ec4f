"""Open files that need the user's consent: refused by name without it, and what was made for it goes again."""

import os
import subprocess
from pathlib import Path

import pytest

from core import DumpOptions, FileChoices, PreflightOptions, RestoreOptions, collect_facts, dump, restore
from core.errors import MigrateError, Refused
from tests.requires import require_root
from tests.roundtrip.targets import ended_afterwards, is_traced, ready


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def refused(pid: int, images: Path, choices: FileChoices) -> list[tuple[str, str]]:
    """Codes and subjects of what a dump refuses; the process runs on."""
    with pytest.raises(Refused) as caught:
        dump(pid, images, DumpOptions(files=choices))
    assert not is_traced(pid)
    assert all(blocker.hint for blocker in caught.value.blockers)
    return [(blocker.code, blocker.subject) for blocker in caught.value.blockers]


def test_without_link_remap_a_file_that_lost_its_name_is_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("file_linked_elsewhere.c", tmp_path) as run:
        assert refused(run.pid, images, FileChoices()) == [("fd-path", f"fd 3 ({run.scratch_dir}/one (deleted))")]


def test_the_name_that_link_remap_makes_goes_with_a_failure_and_with_the_restore(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    options = DumpOptions(files=FileChoices(link_remap=True))
    with ready("file_linked_elsewhere.c", tmp_path) as run:
        os.chmod(images, 0o500)
        (images / "pagemap-1.img").mkdir()
        (images / f"pagemap-{run.pid}.img").mkdir()
        with pytest.raises((MigrateError, OSError)):
            dump(run.pid, images, options)
        assert not list(run.scratch_dir.glob("link_remap*"))
        (images / f"pagemap-{run.pid}.img").rmdir()
        (images / "pagemap-1.img").rmdir()
        dump(run.pid, images, options)
        run.stop()
        assert len(list(run.scratch_dir.glob("link_remap*"))) == 1
        restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            assert not list(run.scratch_dir.glob("link_remap*"))
            run.release()
            assert run.result() == "PASS"


def test_deleted_files_beyond_the_ghost_limit_are_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("file_deleted_live.c", tmp_path) as run:
        name = f"fd 3 ({run.scratch_dir}/log (deleted))"
        assert refused(run.pid, images, FileChoices(ghost_limit=1 << 20)) == [("fd-deleted", name)]


def test_a_deleted_file_that_somebody_else_has_too_is_refused(tmp_path: Path) -> None:
    with ready("file_deleted_live.c", tmp_path) as run:
        other = os.open(f"/proc/{run.pid}/fd/3", os.O_RDONLY)
        try:
            with subprocess.Popen(["/bin/sleep", "100"], stdin=other, start_new_session=True) as holder:
                found = collect_facts(run.pid, PreflightOptions()).blockers
                holder.kill()
        finally:
            os.close(other)
        (blocker,) = (one for one in found if one.code == "fd-shared")
        assert blocker.subject == f"fd 3 ({run.scratch_dir}/log (deleted))"
        assert f"process {holder.pid} has it open too" in blocker.reason
        assert not [one for one in collect_facts(run.pid, PreflightOptions()).blockers if one.code == "fd-shared"]


def test_nothing_of_deleted_files_stays_after_a_restore_that_fails(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("file_deleted.c", tmp_path) as run:
        before = set(run.scratch_dir.iterdir())
        dump(run.pid, images, DumpOptions(leave_running=True))
        with pytest.raises(MigrateError):  # its PID is taken
            restore(images, RestoreOptions())
        assert set(run.scratch_dir.iterdir()) == before
        ghost = next(images.glob("ghost-file-*.img"))
        ghost.write_bytes(ghost.read_bytes()[:-1])
        run.stop()
        with pytest.raises(MigrateError, match="truncated"):
            restore(images, RestoreOptions())
        assert set(run.scratch_dir.iterdir()) == before
