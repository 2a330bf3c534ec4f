import os
import socket
import stat
from pathlib import Path

import pytest

from core.images.pb.sockets_pb2 import UnixSkEntry
from core.kernel.unix_diag import read_backlog
from core.resources import file_presence, file_table, unix_socket
from tests.unit.resources.local_executor import FILES_ID, LocalTask, restored_task, source_task


def listening(address: str | bytes, kind: int = socket.SOCK_STREAM, backlog: int = 5) -> socket.socket:
    live = socket.socket(socket.AF_UNIX, kind)
    live.bind(address)
    live.listen(backlog)
    return live


def serves(task: LocalTask, address: str | bytes, kind: int = socket.SOCK_STREAM) -> bool:
    """The restored listener accepts who connects to `address`."""
    with socket.socket(fileno=task.duplicate(0)) as live, socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(address)
        live.setblocking(True)
        with live.accept()[0] as accepted:
            client.send(b"hello")
            return accepted.recv(10) == b"hello"


def test_criu_ends_a_path_with_a_nul(tmp_path: Path) -> None:
    entry = UnixSkEntry(name=os.fsencode(tmp_path / "socket") + b"\0")
    assert unix_socket.verify(entry, "fd 3") is None
    (tmp_path / "socket").write_text("")
    blocker = unix_socket.verify(entry, "fd 3")
    assert blocker is not None and "something else" in blocker.reason


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_listening_path_is_bound_anew_with_mode_owner_and_backlog(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "socket"

    def setup() -> object:
        live = listening(str(path), kind, 17)
        path.chmod(0o620)
        os.chown(path, 1234, 4321)
        return live

    with source_task(setup) as source:
        images = source.collect()
    assert file_presence.verify(images, [FILES_ID]) == []
    with restored_task(images) as restored:
        after = path.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (stat.S_IFSOCK | 0o620, 1234, 4321)
        ours = restored.duplicate(0)
        assert read_backlog(ours, os.fstat(ours).st_ino) == 17
        os.close(ours)
        assert serves(restored, str(path), kind)


def test_an_abstract_name_and_an_automatic_one_come_back() -> None:
    def setup() -> object:
        automatic = socket.socket(socket.AF_UNIX)
        first = listening(b"\0name with \0 inside %d" % os.getpid())
        automatic.bind("")
        return first, automatic

    with source_task(setup) as source:
        names = []
        for fd in source.fds():
            with socket.socket(fileno=source.duplicate(fd)) as live:
                names.append(live.getsockname())
        images = source.collect()
    with restored_task(images) as restored:
        for fd, name in zip(restored.fds(), names, strict=True):
            with socket.socket(fileno=restored.duplicate(fd)) as live:
                assert live.getsockname() == name


def test_a_removed_path_stays_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def setup() -> object:
        live = listening(str(path))
        path.unlink()
        return live

    with source_task(setup) as source:
        images = source.collect()
    with restored_task(images) as restored, socket.socket(fileno=restored.duplicate(0)) as live:
        assert live.getsockname() == str(path)
        assert not path.exists()


def test_a_socket_of_datagrams_is_bound_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def setup() -> object:
        live = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        live.bind(path)
        return live, socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    with source_task(setup) as source:
        images = source.collect()
    with restored_task(images) as restored, socket.socket(fileno=restored.duplicate(0)) as live:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"hello", path)
        assert live.recv(10) == b"hello"
        assert len(restored.fds()) == 3


def test_what_is_not_carried_is_refused_by_name(tmp_path: Path) -> None:
    outside, given = socket.socketpair()
    busy = listening(b"\0busy %d" % os.getpid())

    def setup() -> object:
        os.chdir(tmp_path)
        relative = listening("relative")
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(b"\0busy %d" % os.getppid())
        unread = listening(b"\0unread %d" % os.getpid())
        talker = socket.socket(socket.AF_UNIX)
        talker.connect(unread.getsockname())
        talker.send(b"x")
        urgent = socket.socketpair()
        urgent[0].send(b"!", socket.MSG_OOB)
        inline = socket.socketpair()
        inline[1].setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        inline[0].send(b"!", socket.MSG_OOB)
        return relative, waiting, unread, talker, urgent, inline

    with outside, given, busy, source_task(setup, keep=[given.fileno()]) as source, source.table() as table:
        codes = [blocker.code for blocker in file_table.refuse(table)]
    assert codes == [
        "fd-unix-outside", "fd-unix-path", "fd-unix-outside", "fd-unix-waiting", "fd-unix-urgent", "fd-unix-urgent",
    ]  # fmt: skip


def test_a_client_outside_that_waits_for_accept_is_refused_or_given_up() -> None:
    name = b"\0crowded %d" % os.getpid()
    with source_task(lambda: listening(name)) as source, socket.socket(socket.AF_UNIX) as client:
        client.connect(name)
        with source.table() as table:
            assert [blocker.code for blocker in file_table.refuse(table)] == ["fd-unix-waiting"]
            assert "are lost" in unix_socket.losses(table)[0]
        with source.table("close") as table:
            assert file_table.refuse(table) == []


def test_a_path_that_is_taken_over_there_is_found_before(tmp_path: Path) -> None:
    path = tmp_path / "there" / "socket"
    path.parent.mkdir()
    with source_task(lambda: listening(str(path))) as source:
        images = source.collect()
    path.unlink()
    assert file_presence.verify(images, [FILES_ID]) == []
    path.touch()
    assert "something else is there" in file_presence.verify(images, [FILES_ID])[0].reason
    path.unlink()
    path.parent.rmdir()
    assert "directory does not exist" in file_presence.verify(images, [FILES_ID])[0].reason
