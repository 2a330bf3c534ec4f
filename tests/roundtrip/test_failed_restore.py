"""A restore that fails at any of its operations leaves nothing, and says in which process, which op and why."""

import os
import resource
import shutil
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import DumpOptions, LiveDestination, RestoreOptions, dump, restore
from core.errors import MigrateError, Refused, RestoreError
from core.images import kinds
from core.images.store import read_directory
from core.kernel.calls import address_of, syscall
from tests.requires import require_root
from tests.roundtrip.targets import LEAF_NAME, READER, ended_afterwards, home_cgroup, own_fds, ready, tracer
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def dumped(name: str, tmp_path: Path) -> tuple[int, Path]:
    """The program's dump; the program is gone."""
    images = tmp_path / "images"
    images.mkdir()
    with ready(name, tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        return run.pid, images


def error_of(pid: int, images: Path) -> MigrateError:
    """What a restore says that must fail; nothing of it is left."""
    ours = own_fds()
    with pytest.raises((RestoreError, Refused)) as caught:
        restore(images, RestoreOptions())
    assert not READER.exists(pid), "it left a process"
    assert own_fds() == ours
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return caught.value


@contextmanager
def occupant(tid: int) -> Iterator[None]:
    """A process that has this id: clone3 with set_tid."""
    ids = struct.pack("<i", tid)
    arguments = struct.pack("<11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, address_of(ids), 1, 0)
    child = syscall("clone3", address_of(arguments), len(arguments))
    if child == 0:
        while True:
            signal.pause()
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def assert_names(error: MigrateError, *words: str) -> None:
    for word in words:
        assert word in error.message, error.message


def test_a_restore_whose_pid_is_taken_says_so_with_a_hint(tmp_path: Path) -> None:
    pid, images = dumped("signal_masks.c", tmp_path)
    with occupant(pid), pytest.raises((RestoreError, Refused)) as caught:
        restore(images, RestoreOptions())
    assert str(pid) in caught.value.message and "File exists" in caught.value.message
    assert "--pid namespace" in (caught.value.hint or "")
    assert not READER.exists(pid)


def test_a_restore_beside_the_process_itself_leaves_that_alone(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("signal_masks.c", tmp_path) as run:
        dump(run.pid, images, DumpOptions(leave_running=True))
        with pytest.raises((RestoreError, Refused)):
            restore(images, RestoreOptions())
        run.release()
        assert run.result() == "PASS"


def test_a_thread_id_that_is_taken_is_named(tmp_path: Path) -> None:
    pid, images = dumped("thread_ids.c", tmp_path)
    tid = max(read_directory(images).one(kinds.PSTREE).threads)
    with occupant(tid):
        assert_names(error_of(pid, images), f"pid {pid}", "clone3", "EEXIST", f"thread {tid}")


def test_a_mapped_file_that_is_gone_is_named(tmp_path: Path) -> None:
    pid, images = dumped("file_mapping_private.c", tmp_path)
    os.unlink(tmp_path / "s" / "mapped")
    assert_names(error_of(pid, images), str(tmp_path / "s" / "mapped"))


def test_an_open_file_that_is_gone_is_named(tmp_path: Path) -> None:
    pid, images = dumped("file_position.c", tmp_path)
    os.unlink(tmp_path / "s" / "file")
    assert_names(error_of(pid, images), str(tmp_path / "s" / "file"))


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    pid, images = dumped("cwd.c", tmp_path)
    shutil.rmtree(tmp_path / "s" / "outer")
    assert_names(error_of(pid, images), str(tmp_path / "s" / "outer" / "in ner"))


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    pid, images = dumped("listen_tcp4.c", tmp_path)
    entry = next(entry for entry in read_directory(images).all(kinds.FILES) if entry.HasField("isk"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", entry.isk.src_port))
        taken.listen()
        assert_names(error_of(pid, images), f"pid {pid}", "bind", "EADDRINUSE", str(entry.isk.src_port))


def test_too_low_a_limit_is_named(tmp_path: Path) -> None:
    pid, images = dumped("fd_table.c", tmp_path)

    def restore_with_few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        assert_names(error_of(pid, images), f"pid {pid}", "dup3", "EBADF", "fd 256")

    with tracer(restore_with_few_descriptors) as other:
        assert other.wait() == 0, other.trouble()
    assert not READER.exists(pid)


def test_a_failure_before_the_last_step_leaves_nothing(tmp_path: Path) -> None:
    pid, images = dumped("threads50.c", tmp_path)

    def fail(pid: int) -> None:
        raise KeyboardInterrupt

    ours = own_fds()
    with pytest.raises(KeyboardInterrupt):
        restore(images, RestoreOptions(), fail)
    assert not READER.exists(pid)
    assert own_fds() == ours
    with ended_afterwards(restore(images, RestoreOptions()).pid):
        (tmp_path / "s" / "go").touch()
        wait_until((tmp_path / "s" / "result").exists, "it ends", deadline_s=20)
        assert (tmp_path / "s" / "result").read_text() == "PASS"


def test_a_live_copy_that_fails_leaves_neither_process_nor_cgroup(tmp_path: Path) -> None:
    pid, images = dumped("file_mapping_private.c", tmp_path)
    os.unlink(tmp_path / "s" / "mapped")
    whole = read_directory(images)
    with home_cgroup(os.getpid()):
        destination = LiveDestination(LEAF_NAME, RestoreOptions())
        path = destination.prepare(None, pid)
        with pytest.raises(RestoreError) as caught:
            destination.begin_round(whole, {pid: whole})
        destination.abort()
        destination.abort()
        assert not os.path.isdir(path)
    assert_names(caught.value, f"pid {pid}", "openat", "ENOENT", str(tmp_path / "s" / "mapped"))
    assert not READER.exists(pid)
