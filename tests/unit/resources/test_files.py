import fcntl
import os
import pty
from pathlib import Path

import pytest

from core.errors import ImageError
from core.images import kinds
from core.resources import file_presence, file_table, table_plan
from core.resources.context import OpenTable
from tests.unit.resources.local_executor import FILES_ID, LocalTask, restored_task, source_task

STATUS = os.O_APPEND | os.O_NONBLOCK | os.O_SYNC | os.O_PATH | os.O_ACCMODE | os.O_CLOEXEC | os.O_NOATIME


def state(task: LocalTask, fd: int) -> tuple[str, int, int]:
    info = task.info(fd)
    return task.link(fd), info.pos, info.flags & STATUS


def states(task: LocalTask) -> dict[int, tuple[str, int, int]]:
    return {fd: state(task, fd) for fd in task.fds()}


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "file ä\n.txt"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def test_positions_and_flags_come_back(text_file: Path) -> None:
    def setup() -> None:
        os.lseek(os.open(text_file, os.O_RDONLY), 4321, os.SEEK_SET)
        os.write(os.open(text_file, os.O_RDWR | os.O_APPEND), b"")
        os.open(text_file, os.O_WRONLY | os.O_NONBLOCK | os.O_SYNC)
        os.open(text_file, os.O_PATH)
        os.open(text_file, os.O_RDONLY | os.O_NOATIME)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert states(restored) == states(source)
        assert state(restored, 0)[1] == 4321


def test_what_creates_or_empties_a_file_is_not_done_again(text_file: Path) -> None:
    def setup() -> None:
        fd = os.open(text_file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(fd, b"content")

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert states(restored) == states(source)
        assert text_file.read_bytes() == b"content"


def test_duplicates_share_one_position_and_second_opens_do_not(text_file: Path) -> None:
    def setup() -> None:
        first = os.open(text_file, os.O_RDONLY)
        os.open(text_file, os.O_RDONLY)
        os.dup2(first, 9, inheritable=False)
        os.dup2(first, 5)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert states(restored) == states(source)
        assert [fd for fd in restored.fds() if restored.info(fd).flags & os.O_CLOEXEC] == [0, 1, 9]
        ours = restored.duplicate(5)
        os.lseek(ours, 77, os.SEEK_SET)
        os.close(ours)
        assert {fd: restored.info(fd).pos for fd in restored.fds()} == {0: 77, 1: 0, 5: 77, 9: 77}


def test_gaps_and_high_numbers_are_kept(text_file: Path) -> None:
    def setup() -> None:
        fd = os.open(text_file, os.O_RDONLY)
        os.dup2(os.open("/dev/null", os.O_RDWR), 512)
        os.dup2(fd, 3)
        os.close(fd)
        os.close(1)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert restored.fds() == [3, 512]
        assert states(restored) == states(source)


def test_directories_keep_their_position(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"entry-{number}").touch()

    def setup() -> None:
        fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        end = os.lseek(fd, 0, os.SEEK_CUR)
        os.listdir(fd)
        os.lseek(fd, max(end, 2), os.SEEK_SET)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert states(restored) == states(source)
        assert restored.info(0).pos == 2


@pytest.mark.parametrize("name", ["null", "zero", "full", "random", "urandom"])
def test_memory_devices_are_reopened(name: str) -> None:
    def setup() -> None:
        os.open(f"/dev/{name}", os.O_RDWR)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert states(restored) == states(source)


def test_a_symlink_opened_as_a_path_stays_the_link(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")

    def setup() -> None:
        os.open(link, os.O_PATH | os.O_NOFOLLOW)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert restored.link(0) == str(link)


def test_the_owner_of_signals_is_whom_the_image_names() -> None:
    def setup() -> object:
        reading, writing = os.pipe()
        fcntl.fcntl(reading, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(reading, fcntl.F_SETSIG, 40)
        fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        return writing

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        ours = restored.duplicate(0)
        assert fcntl.fcntl(ours, fcntl.F_GETOWN) == source.pid
        assert fcntl.fcntl(ours, fcntl.F_GETSIG) == 40
        os.close(ours)
        assert restored.info(0).flags & (os.O_ASYNC | os.O_NONBLOCK) == os.O_ASYNC | os.O_NONBLOCK


def codes(table: OpenTable) -> dict[int, str]:
    alone = [OpenTable((file,), table.options) for file in table.files]
    return {one.files[0].fd: blocker.code for one in alone for blocker in file_table.refuse(one)}


def test_files_without_a_way_back_are_refused_by_name(tmp_path: Path) -> None:
    def setup() -> object:
        (tmp_path / "moved over").touch()
        os.open(tmp_path / "moved over", os.O_RDONLY)
        (tmp_path / "elsewhere").mkdir()
        os.link(tmp_path / "moved over", tmp_path / "elsewhere/second name")
        (tmp_path / "new").touch()
        (tmp_path / "new").rename(tmp_path / "moved over")
        (tmp_path / "locked").touch()
        fcntl.flock(os.open(tmp_path / "locked", os.O_RDWR), fcntl.LOCK_EX)
        ended = os.fork() or os._exit(0)
        os.pidfd_open(ended)
        os.waitpid(ended, 0)
        pty.openpty()
        return None

    with source_task(setup) as source, source.table() as table:
        assert codes(table) == {0: "fd-path", 1: "fd-lock", 2: "fd-pidfd-gone", 4: "fd-terminal"}
        for blocker in file_table.refuse(table):
            assert blocker.subject.startswith("fd ")
            assert blocker.hint
        assert not file_table.refuse(table, table.files[3:])  # with its master it goes along
        terminal = file_table.refuse(OpenTable(table.files[4:]))[0]
        assert "terminal" in terminal.reason
        assert "setsid" in (terminal.hint or "")


def test_a_missing_or_different_file_is_found_before_anything_is_made(text_file: Path) -> None:
    with source_task(lambda: os.open(text_file, os.O_RDONLY)) as source:
        images = source.collect()
    assert file_presence.verify(images, [FILES_ID]) == []
    with open(text_file, "ab") as file:
        file.write(b"more")
    (differs,) = file_presence.verify(images, [FILES_ID])
    assert differs.code == "file-differs"
    size = text_file.stat().st_size
    assert differs.reason.startswith(f"has {size} bytes on {os.uname().nodename}, and had {size - 4} when")
    text_file.unlink()
    (missing,) = file_presence.verify(images, [FILES_ID])
    assert missing.code == "file-missing"
    assert missing.subject == f"fd 0 ({text_file})"


def test_a_descriptor_without_its_file_is_an_image_error() -> None:
    with source_task(lambda: os.open("/dev/null", os.O_RDONLY)) as source:
        images = source.collect()
    images.all(kinds.FDINFO, FILES_ID)[0].id = 99
    with pytest.raises(ImageError, match="fd 0 is file 99"):
        table_plan.plan(images, FILES_ID, tcp="refuse")


def test_a_task_without_descriptors_gets_none() -> None:
    with source_task(lambda: None) as source, restored_task(source.collect()) as restored:
        assert restored.fds() == []
