"""A table of open files that is read while the task runs: nothing that it closes stays open because we look."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.kernel.calls import pidfd_open
from core.options import DumpOptions
from core.proc.reader import ProcReader
from core.resources import file_table, tcp_socket, unix_socket
from core.resources.context import ClosedMeanwhile, looking_at, make_table, open_files
from tests.requires import require_root

CLOSES_WHEN_TOLD = "import os, sys\nfor fd in sys.stdin: os.close(int(fd)); print(flush=True)"
READER = ProcReader()


@contextmanager
def a_task_with(ours: socket.socket) -> Iterator["subprocess.Popen[str]"]:
    """One that closes the descriptor that it is told, and answers."""
    with subprocess.Popen(
        [sys.executable, "-c", CLOSES_WHEN_TOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        pass_fds=[ours.fileno()],
    ) as task:  # fmt: skip
        try:
            yield task
        finally:
            task.kill()


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_what_a_running_task_closes_is_closed_for_its_peer_and_no_reason(family: socket.AddressFamily) -> None:
    require_root()
    theirs, ours = socket.socketpair() if family == socket.AF_UNIX else connection()
    with ours, a_task_with(theirs) as task:
        fd = theirs.fileno()
        theirs.close()
        assert task.stdin is not None and task.stdout is not None
        with own_pidfd(task.pid) as pidfd, open_files(task.pid, READER, pidfd, runs=True) as files:
            (watched,) = [file for file in files if file.fd == fd]
            with looking_at(watched):
                assert watched.local_fd >= 0
            print(fd, file=task.stdin, flush=True)
            task.stdout.readline()
            ours.settimeout(10)
            assert ours.recv(1) == b""
            with pytest.raises(ClosedMeanwhile, match=rf"fd {fd} .*closed while it was looked at"):
                _ = watched.local_fd
            table = make_table([watched], DumpOptions())
            assert file_table.refuse(table) == []
            assert (*tcp_socket.losses(table), *unix_socket.losses(table)) == ()


@contextmanager
def own_pidfd(pid: int) -> Iterator[int]:
    pidfd = pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return server.accept()[0], ours
