"""Errors that wait in sockets are lost, which is said; looking for them takes none away."""

import errno
import select
import socket

from core.resources import file_table
from tests.unit.resources.local_executor import READER, source_task


def test_the_error_of_a_connect_that_failed_is_told_and_stays() -> None:
    def setup() -> object:
        refused = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            assert refused.connect_ex(nobody.getsockname()) == errno.EINPROGRESS
        poller = select.poll()
        poller.register(refused, select.POLLOUT)
        poller.poll(5000)
        return refused

    with source_task(setup) as source:
        blockers, losses = file_table.probe_table(source.pid, source.pidfd, READER, "refuse")
        assert (blockers, losses) == ([], ["the error that waits in fd 0 is lost: it is found closed by its peer"])
        with socket.socket(fileno=source.duplicate(0)) as live:
            assert live.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_waiting_error_is_told_and_stays() -> None:
    def setup() -> object:
        refused = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            refused.connect(nobody.getsockname())
        refused.send(b"x")
        return refused

    with source_task(setup) as source:
        blockers, losses = file_table.probe_table(source.pid, source.pidfd, READER, "refuse")
        assert blockers == []
        assert losses == [f"errors, or times of sending, that wait in fd 0 ({source.link(0)}) are lost"]
        with socket.socket(fileno=source.duplicate(0)) as live:
            assert live.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
