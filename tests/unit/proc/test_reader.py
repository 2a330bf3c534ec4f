"""The reader against our own process, and against what is not there."""

import os
import select
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from core.proc.reader import ProcReader

OURSELVES = os.getpid()
UNUSED_PID = 1 << 22


def test_our_own_identity() -> None:
    reader = ProcReader()
    status, stat = reader.status(OURSELVES), reader.stat(OURSELVES)
    assert (status.pid, status.ppid, status.uids[0]) == (OURSELVES, os.getppid(), os.getuid())
    assert (stat.pid, stat.session, stat.comm) == (OURSELVES, os.getsid(0), reader.comm(OURSELVES))
    assert not stat.is_kernel_thread
    assert status.cpus_allowed == os.sched_getaffinity(0)
    assert reader.cwd(OURSELVES) == os.getcwd()
    assert reader.root(OURSELVES) == "/"
    assert reader.namespaces(OURSELVES)["net"] == os.stat("/proc/self/ns/net").st_ino


def test_our_own_memory() -> None:
    reader = ProcReader()
    vmas = reader.maps(OURSELVES)
    assert "[stack]" in {vma.name for vma in vmas}
    assert [vma.start for vma in vmas] == sorted(vma.start for vma in vmas)
    assert "rd" in next(one for one in reader.smaps(OURSELVES) if one.vma.name == "[stack]").flags
    vdso = next(vma for vma in vmas if vma.name == "[vdso]")
    assert vdso.start in reader.auxv(OURSELVES)


def test_threads_are_read_one_by_one() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        reader = ProcReader()
        assert thread.native_id in reader.tids(OURSELVES)
        assert reader.status(OURSELVES, thread.native_id).pid == thread.native_id
        assert reader.stat(OURSELVES, thread.native_id).pid == thread.native_id
    finally:
        stop.set()
        thread.join()


def test_descriptors_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "file"
    reader = ProcReader()
    with path.open("wb") as file, select.epoll() as poll:
        file.write(b"12345")
        file.flush()
        read_end, write_end = os.pipe()
        poll.register(read_end, select.EPOLLIN)
        assert {file.fileno(), poll.fileno(), read_end} <= set(reader.fds(OURSELVES))
        assert reader.fd_link(OURSELVES, file.fileno()) == str(path)
        assert reader.fdinfo(OURSELVES, file.fileno()).pos == 5
        assert reader.fd_stat(OURSELVES, file.fileno()).st_ino == path.stat().st_ino
        (target,) = reader.fdinfo(OURSELVES, poll.fileno()).epoll_targets
        assert (target.tfd, target.ino) == (read_end, os.fstat(read_end).st_ino)
        os.close(read_end)
        os.close(write_end)


def test_sockets_are_found_by_inode(tmp_path: Path) -> None:
    reader = ProcReader()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "s"))
        local.listen()
        found = reader.inet_sockets(OURSELVES)[os.fstat(server.fileno()).st_ino]
        assert (found.state_name, found.local) == ("LISTEN", server.getsockname())
        one = reader.unix_sockets(OURSELVES)[os.fstat(local.fileno()).st_ino]
        assert (one.is_listening, one.path) == (True, str(tmp_path / "s"))


def test_a_child_is_among_our_children() -> None:
    child = subprocess.Popen(["/bin/sleep", "30"])
    try:
        reader = ProcReader()
        assert child.pid in reader.children(OURSELVES)
        assert reader.status(child.pid).ppid == OURSELVES
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_children_are_found_whatever_thread_has_just_ended() -> None:
    class Late(ProcReader):
        looks = 0

        def tids(self, pid: int) -> list[int]:
            self.looks += 1
            return [*super().tids(pid), *([UNUSED_PID] if self.looks < 3 else [])]

    child = subprocess.Popen(["/bin/sleep", "30"])
    try:
        assert child.pid in Late().children(OURSELVES)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_a_missing_process_is_a_lookup_error() -> None:
    reader = ProcReader()
    for read in (reader.maps, reader.status, reader.fds, reader.exe, reader.namespaces, reader.tids, reader.children):
        with pytest.raises(ProcessLookupError):
            read(UNUSED_PID)


def test_a_missing_thread_is_a_lookup_error() -> None:
    with pytest.raises(ProcessLookupError):
        ProcReader().status(OURSELVES, UNUSED_PID)


def test_a_closed_descriptor_is_not_a_missing_process() -> None:
    with pytest.raises(FileNotFoundError):
        ProcReader().fd_link(OURSELVES, 987654)


def test_another_root_is_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "comm").write_text("fake\n")
    assert ProcReader(str(tmp_path)).comm(7) == "fake"
