"""`python -m migrate.keeper.process source|destination`: one keeper's process, its sockets and its log.

`--engine` names the module that makes engines; EngineModule is what it exports.
"""

import argparse
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from google.protobuf.message import Message as Body

from migrate.journal import Journal
from migrate.keeper.destination import DestinationEngine, DestinationKeeper
from migrate.keeper.listener import Listener, listen
from migrate.keeper.source import SourceEngine, SourceKeeper, serve
from migrate.messages import encode
from migrate.transport.frames import BlockingFrames

DEFAULT_ENGINE = "migrate.keeper.live"
log = logging.getLogger(__name__)


class EngineModule(Protocol):
    """What an engine module exports."""

    source_engine: Callable[[str, Sequence[int]], SourceEngine]  # of a migration's id and its page streams
    destination_engine: Callable[[str], DestinationEngine]
    resume_parked: Callable[[str], None]  # keeper/parked.py
    kill_parked: Callable[[str], None]
    find_parked: Callable[[int, str], str]


def load_engine(name: str) -> EngineModule:
    """The engine module called `name`."""
    return cast(EngineModule, importlib.import_module(name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one keeper to its end."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # what the process has open we hold, too
    if options.role == "source":
        _run_source(options)
    else:
        _run_destination(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="migrate keeper")
    roles = parser.add_subparsers(dest="role", required=True)
    source = roles.add_parser("source")
    source.add_argument("--control-fd", type=int, required=True)
    source.add_argument("--pages-fd", type=int, action="append", default=[])
    for role in (source, roles.add_parser("destination")):
        role.add_argument("--id", required=True)
        role.add_argument("--engine", default=DEFAULT_ENGINE)
    return parser


def _run_source(options: argparse.Namespace) -> None:
    frames = BlockingFrames(socket.socket(fileno=options.control_fd))

    def emit(body: Body) -> None:
        frames.send(encode(body))

    engine = load_engine(options.engine).source_engine(options.id, options.pages_fd)
    serve(SourceKeeper(engine, Journal.default(), options.id, emit), frames)


def _run_destination(options: argparse.Namespace) -> None:
    """Listen first, then leave: whoever started us may connect as soon as we return to it."""
    journal = Journal.default()
    path = journal.socket_path(options.id)
    make_engine = load_engine(options.engine).destination_engine
    with journal.lock_copy(options.id), listen(path) as listener:
        _leave_parent()
        keeper = DestinationKeeper(make_engine(options.id), journal, options.id, str(path))
        try:
            Listener(keeper, listener, BlockingFrames).serve()
        finally:
            path.unlink(missing_ok=True)


def _leave_parent() -> None:
    """The second fork: we are in a session of our own already, now we are nobody's child and lead no session."""
    if os.fork():
        os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        log.exception("the keeper failed")
        sys.exit(1)
