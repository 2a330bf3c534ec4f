"""`migrate serve`: the coordinator with its HTTP API and dashboard."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from core.errors import UsageError
from migrate.api.app import background_errors, make_app
from migrate.api.guards import OpenGuard, TokenGuard, is_loopback, tls_context
from migrate.api.models import Role
from migrate.api.services import Guard, Services, make_token
from migrate.cli.logs import MigrationStamp, start_logging
from migrate.cli.options import LogFile, Verbose
from migrate.cli.parse import parse_choice
from migrate.cli.watch import ExitCode, say
from migrate.fleet.hooks import Hooks
from migrate.fleet.hosts import load_inventory
from migrate.fleet.inventory import Inventory, read_inventory
from migrate.fleet.reach import SshReach
from migrate.fleet.store import Store

DEFAULT_LISTEN = "127.0.0.1:8467"
DEFAULT_DATABASE = "sqlite:////var/lib/migrate/fleet.db"
log = logging.getLogger(__name__)


def serve(
    listen: Annotated[
        str, typer.Option(metavar="ADDR:PORT", help="Where to listen.", show_default=True)
    ] = DEFAULT_LISTEN,
    database: Annotated[
        str,
        typer.Option(
            metavar="URL", help="sqlite:///FILE, or postgresql://… for several coordinators.", show_default=True
        ),
    ] = DEFAULT_DATABASE,
    inventory: Annotated[Path | None, typer.Option(metavar="FILE", help="Hosts and workloads, TOML.")] = None,
    hooks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Files called in drains: before-host, before-workload, after-workload, after-host."
        ),
    ] = None,
    traces: Annotated[
        str, typer.Option(metavar="URL", help="Send traces to this OpenTelemetry collector (OTLP/HTTP, JSON).")
    ] = "",
    auth: Annotated[
        str, typer.Option(metavar="none|token", help="Who may ask; none is for loopback only.", show_default=True)
    ] = "",
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificates by this authority log in: CN is the name, OU the role."),
    ] = None,
    add_token: Annotated[
        str | None, typer.Option(metavar="NAME:ROLE", help="Make a token (viewer, operator, admin), print it, end.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="This coordinator's, among several.")] = "",
    verbose: Verbose = 0,
    log_file: LogFile = None,
) -> int:
    """Serve the HTTP API and the dashboard, and work on migrations and drains."""
    start_logging(log_file, verbose + 1, MigrationStamp())
    if add_token:
        return asyncio.run(_add_token(database, add_token))
    address, port = parse_listen(listen)
    kind = parse_choice("--auth", auth or ("none" if is_loopback(address) else "token"), ("none", "token"))
    if kind == "none" and not is_loopback(address):
        raise UsageError(
            f"--auth none: {address} can be reached from elsewhere",
            hint="--auth token, and `migrate serve --add-token NAME:admin`; or listen on 127.0.0.1",
        )
    if traces and not traces.startswith(("http://", "https://")):
        raise UsageError(f"--traces {traces}: is not the URL of a collector", hint="for example http://localhost:4318")
    if hooks is not None and not hooks.is_dir():
        raise UsageError(f"--hooks {hooks}: is not a directory")
    context = tls_context(tls_cert, tls_key, client_ca)
    owner = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    known = read_inventory(inventory) if inventory else Inventory()

    async def run() -> None:
        background_errors(asyncio.get_running_loop())
        store, reach = await Store.open(database), SshReach()
        try:
            guard: Guard = OpenGuard() if kind == "none" else TokenGuard(store)
            services = Services(store, reach, guard, known.workloads, Hooks(hooks), traces=traces)
            await load_inventory(store, known)
            runner = web.AppRunner(make_app(services, owner), access_log=None, shutdown_timeout=2)
            await runner.setup()
            try:
                await web.TCPSite(runner, address, port, ssl_context=context).start()
                shown = runner.addresses[0][:2]
                say(
                    [f"migrate serve: http{'s' if context else ''}://{shown[0]}:{shown[1]}/  (authentication: {kind})"],
                    sys.stdout,
                )
                await _until_told()
            finally:
                services.closing.set()
                await runner.cleanup()
        finally:
            await reach.close()
            await store.close()

    try:
        asyncio.run(run())
    except OSError as error:
        # Below 0 it is of the name service, whose words are good.
        of_kernel = error.errno is not None and error.errno > 0
        reason = os.strerror(error.errno or 0) if of_kernel else error.strerror or str(error)
        raise UsageError(f"--listen {listen}: {reason}") from error
    return ExitCode.DONE


def parse_listen(text: str) -> tuple[str, int]:
    """ADDR:PORT, [::1]:PORT or :PORT; port 0 takes any."""
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen {text}: is not ADDR:PORT", hint=f"for example {DEFAULT_LISTEN}")
    return address.strip("[]") or "0.0.0.0", int(port)


async def _until_told() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    with contextlib.suppress(asyncio.CancelledError):
        await told.wait()


async def _add_token(database: str, text: str) -> int:
    name, _, role = text.partition(":")
    chosen = Role(parse_choice("--add-token", role, tuple(Role)))
    store = await Store.open(database)
    try:
        token = await make_token(store, name, chosen)
        await store.audit("command line", "add-token", name, role=chosen)
    finally:
        await store.close()
    if token is None:
        raise UsageError(f"--add-token {name}: there is one already")
    say([token], sys.stdout)
    return ExitCode.DONE
