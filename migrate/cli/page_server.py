"""`migrate page-server`, and the options by which a dump sends its pages to one. Plain TCP: loopback, or asked for."""

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from core.errors import UsageError
from migrate.cli.logs import MigrationStamp, start_logging
from migrate.cli.options import LogFile, Verbose
from migrate.cli.parse import parse_count
from migrate.cli.watch import ExitCode, say
from migrate.cli.words import count, size

if TYPE_CHECKING:
    from core import PagesSink

LOOPBACK = "127.0.0.1"
Address: TypeAlias = Annotated[
    str, typer.Option("--address", metavar="ADDRESS", help="Of the page server.", show_default=True)
]
Port: TypeAlias = Annotated[
    str | None, typer.Option("--port", metavar="N", help="Of the page server.", show_default=False)
]
AllowPlain: TypeAlias = Annotated[
    bool,
    typer.Option("--allow-plain-tcp", help="Page servers speak plain TCP: allow it beyond loopback, for all to read."),
]


def page_server(
    images_dir: Annotated[
        Path, typer.Option("-D", "--images-dir", metavar="DIR", help="Directory for the pages.", show_default=False)
    ],
    port: Port = None,
    address: Address = LOOPBACK,
    prev_images_dir: Annotated[
        str | None,
        typer.Option(
            "--prev-images-dir", metavar="REL", help="Where the pages of the last pre-dump are, relative to DIR."
        ),
    ] = None,
    allow_plain_tcp: AllowPlain = False,
    verbose: Verbose = 0,
    log_file: LogFile = None,
) -> int:
    """Take the pages of one dump or pre-dump and write them into a directory; the dump's other images stay with it.

    Put together in one directory they can be restored.
    """
    number = _check(address, port, allow_plain_tcp)
    start_logging(log_file, verbose, MigrationStamp())
    from core import PAGE_SIZE, PageStore
    from migrate.pagesrv.server import listen, serve_one

    store = PageStore(images_dir, prev_images_dir)
    try:
        listener = listen(address, number)
    except OSError as error:
        raise UsageError(f"--address {address} --port {number}: {error.strerror or error}") from error
    with listener:
        say([f"Waiting for pages on {address} port {listener.getsockname()[1]}."], sys.stdout)
        done = serve_one(listener, store)
    say([f"Wrote {count(done.pages, 'page')}, {size(done.pages * PAGE_SIZE)}, to {images_dir}."], sys.stdout)
    return ExitCode.DONE


def parse_page_server(wanted: bool, address: str, port: str | None, allow_plain: bool) -> tuple[str, int] | None:
    """Where a dump's options say that a page server is; None without."""
    if wanted:
        return address, _check(address, port, allow_plain)
    if port is not None or address != LOOPBACK:
        raise UsageError("--address and --port: are of a page server", hint="add --page-server")
    return None


@contextmanager
def page_sink(place: tuple[str, int] | None) -> Iterator["PagesSink | None"]:
    """A connection to the page server there."""
    if place is None:
        yield None
        return
    from migrate.pagesrv.client import connected

    with connected(*place) as client:
        yield client


def _check(address: str, port: str | None, allow_plain: bool) -> int:
    """The port; UsageError where memory would cross a network unasked."""
    if port is None:
        raise UsageError("--port: is missing", hint="the page server's, such as --port 27000")
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError as error:
        raise UsageError(f"--address: {address!r} is not an IP address") from error
    if not (is_loopback or allow_plain):
        hint = "tunnel it through SSH to 127.0.0.1, or say --allow-plain-tcp where the network is yours alone"
        raise UsageError(f"--address {address}: page servers speak plain TCP, unencrypted and for anyone", hint=hint)
    return parse_count("--port", port, 65535)
