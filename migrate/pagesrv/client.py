"""The client's end of a page server: what a dump writes instead of pages files."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from core import EMPTY, Buffer, DumpIds, PageReader, Ranges
from core.errors import Blocker, PageStreamError, Refused
from migrate.pagesrv.receiver import PageReceiver
from migrate.pagesrv.sender import PageSender

TIMEOUT_S = 60.0
HELLO, PAGES, DONE = 0, 1, 2
"""Rounds of the conversation: what the server's parent has, the dump's pages, the server's word that all is written."""


class PageClient:
    """A PagesSink at the other end of a connected socket, which its caller closes."""

    def __init__(self, connection: socket.socket) -> None:
        self._sender = PageSender(connection.fileno(), "none")
        self._receiver = PageReceiver(connection.fileno(), _Nothing(), self)
        self._parent_id = ""
        self._parent_pages: dict[int, Ranges] = {}
        self._receiver.run_until_round_end(HELLO)

    def ids(self, dump_id: str, parent_id: str) -> None:
        """See Marks: which dump the server has as parent."""
        self._parent_id = dump_id

    def parent(self, mm_id: int, runs: Ranges) -> None:
        """See Marks: what the server's parent has."""
        self._parent_pages[mm_id] = self.parent_pages(mm_id).union(runs)

    def begin(self, ids: DumpIds) -> None:
        """See PagesSink."""
        if ids.parent and ids.parent != self._parent_id:
            reason = "has the pages of another dump as parent" if self._parent_id else "has no parent directory"
            hint = "start it with --prev-images-dir and the directory that has the pages of the last pre-dump"
            raise Refused([Blocker("parent-images", "page server", reason, hint)])
        if not ids.parent:
            self._parent_pages.clear()
        self._sender.send_ids(PAGES, ids.dump, ids.parent)

    def parent_pages(self, id: int) -> Ranges:
        """See PagesSink."""
        return self._parent_pages.get(id, EMPTY)

    def write(self, id: int, reader: PageReader, pages: Ranges, in_parent: Ranges) -> Ranges:
        """See PagesSink."""
        self._sender.send_parent(PAGES, id, in_parent)
        return self._sender.send_round(PAGES, id, reader, pages).missing

    def finish(self) -> None:
        """See PagesSink."""
        self._sender.end_round(PAGES)
        self._receiver.run_until_round_end(DONE)


class _Nothing:
    """A server sends no pages."""

    def land(self, mm_id: int, runs: Ranges, memory: Buffer) -> None:
        raise OSError(22, "pages from a page server")

    def zero(self, mm_id: int, runs: Ranges) -> None:
        raise OSError(22, "pages from a page server")


@contextmanager
def connected(address: str, port: int) -> Iterator[PageClient]:
    """A connection to a page server. PageStreamError when there is none."""
    try:
        connection = socket.create_connection((address, port), TIMEOUT_S)
    except OSError as error:
        raise PageStreamError(f"page server {address} port {port}: {error.strerror or error}") from error
    with connection:
        connection.settimeout(None)
        yield PageClient(connection)
