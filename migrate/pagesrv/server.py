"""A page server: takes the pages of one dump over a connection and writes them into a directory. Plain TCP."""

import socket

from core import PageStore
from migrate.pagesrv.client import DONE, HELLO, PAGES
from migrate.pagesrv.receiver import PageReceiver
from migrate.pagesrv.sender import PageSender, RoundCount


def listen(address: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any. OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=1)


def serve_one(listener: socket.socket, store: PageStore) -> RoundCount:
    """Wait for a client and take its dump: what it came to. After any error nothing of it is left."""
    connection, _ = listener.accept()
    with connection:
        try:
            sender = PageSender(connection.fileno(), "none")
            sender.send_ids(HELLO, store.parent_id, "")
            for id in store.parents:
                sender.send_parent(HELLO, id, store.parent_pages(id))
            sender.end_round(HELLO)
            count = PageReceiver(connection.fileno(), store, store).run_until_round_end(PAGES)
            store.finish()
        except BaseException:
            store.abandon()
            raise
        sender.end_round(DONE)
        return count
