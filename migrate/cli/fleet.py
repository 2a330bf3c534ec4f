"""`migrate drain` and `migrate hosts`: a server is asked, the one that MIGRATE_SERVER names."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from core.errors import UsageError
from migrate.cli.options import Json
from migrate.cli.parse import parse_choice, parse_count
from migrate.cli.report import hint_lines, table_lines
from migrate.cli.watch import ExitCode, say

if TYPE_CHECKING:
    from migrate.api.client import Client
    from migrate.api.models import CancelDrain, Drain, Host

T = TypeVar("T")
SERVER_VARIABLE = "MIGRATE_SERVER"
TOKEN_VARIABLE = "MIGRATE_TOKEN"
DEFAULT_SERVER = "http://127.0.0.1:8467"
OVER = ("done", "failed", "cancelled", "away")
LOOK_S = 1.0
HOSTS_TAKES = "write list, add NAME [user@]host, remove NAME, cordon NAME or uncordon NAME"

Server = Annotated[str | None, typer.Option("--server", metavar="URL", help=f"Instead of {SERVER_VARIABLE}.")]
Labels = Annotated[list[str] | None, typer.Option("--to-label", metavar="K=V", help="Only to hosts with this label.")]


def drain(
    host: Annotated[str, typer.Argument(metavar="HOST", hidden=True)],
    to: Annotated[list[str] | None, typer.Option(metavar="HOST", help="Only to this host; may be repeated.")] = None,
    to_label: Labels = None,
    window: Annotated[
        str | None, typer.Option(metavar="WHEN", help='"Sat 02:00-04:00 Europe/Berlin", or an RRULE with /2h.')
    ] = None,
    max_parallel: Annotated[str, typer.Option(metavar="N", help="So many at once.", show_default=True)] = "2",
    max_parallel_per_destination: Annotated[
        str, typer.Option(metavar="N", help="So many at once to one host.", show_default=True)
    ] = "1",
    bandwidth: Annotated[str | None, typer.Option(metavar="RATE", help="For all of it together: 1gbit.")] = None,
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="For each migration: 10m.")] = None,
    on_failure: Annotated[
        str,
        typer.Option(
            metavar="skip|stop|back", help="When one fails: go on, stop, or bring all back.", show_default=True
        ),
    ] = "skip",
    order: Annotated[
        str, typer.Option(metavar="size|dirty-rate|priority", help="Who goes first.", show_default=True)
    ] = "priority",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only plan: who would go where, and when.")] = False,
    and_back: Annotated[bool, typer.Option("--and-back", help="Bring all back once the host is uncordoned.")] = False,
    cancel: Annotated[
        str | None, typer.Option(metavar="finish|abort", help="Stop the drain under way; what runs ends or rolls back.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Tell how it stands.")] = False,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Do not wait for its end.")] = False,
    json: Json = False,
    server: Server = None,
) -> int:
    """Empty HOST: every workload on it moves elsewhere. It is cordoned first and stays so. Exit code 1: not all moved.

    The server carries it out; Ctrl-C here only stops watching.
    """
    from migrate.api.models import CancelDrain, NewDrain

    async def work(client: "Client") -> int:
        if cancel is not None or status:
            return await _under_way(
                client, host, CancelDrain.model_validate({"running": cancel}) if cancel else None, json
            )
        spec = NewDrain.model_validate(wanted)
        found = await client.drain(spec)
        if dry_run or detach:
            _show(found, json)
            return ExitCode.DONE
        return await _follow(client, found, json)

    wanted: dict[str, Any] = {
        "host": host, "to": to or [], "to_labels": parse_labels(to_label), "window": window,
        "max_parallel": parse_count("--max-parallel", max_parallel, 64),
        "max_parallel_per_destination": parse_count("--max-parallel-per-destination", max_parallel_per_destination, 64),
        "bandwidth": bandwidth, "deadline": deadline,
        "on_failure": parse_choice("--on-failure", on_failure, ("skip", "stop", "back")),
        "order": parse_choice("--order", order, ("size", "dirty-rate", "priority")),
        "dry_run": dry_run, "and_back": and_back,
    }  # fmt: skip
    if cancel is not None:
        parse_choice("--cancel", cancel, ("finish", "abort"))
    return ask(work, server)


def hosts(
    what: Annotated[str, typer.Argument(metavar="[list|add|remove|cordon|uncordon]", hidden=True)] = "list",
    name: Annotated[str | None, typer.Argument(metavar="NAME", hidden=True)] = None,
    address: Annotated[str | None, typer.Argument(metavar="ADDRESS", hidden=True)] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="Of a host that is added.")] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it is cordoned.")] = "",
    json: Json = False,
    server: Server = None,
) -> int:
    """List the hosts; or: add NAME [user@]host, remove NAME, cordon NAME, uncordon NAME."""
    from migrate.api.models import NewHost

    async def work(client: "Client") -> int:
        match what, name, address:
            case "list", None, None:
                found = await client.hosts()
                lines = [one.model_dump_json() for one in found] if json else host_lines(found)
                say(lines, sys.stdout)
            case "add", str(), str():
                await client.add_host(
                    NewHost.model_validate({"name": name, "address": address, "labels": parse_labels(label)})
                )
            case "remove", str(), None:
                await client.remove_host(name)
            case "cordon", str(), None:
                await client.cordon(name, reason)
            case "uncordon", str(), None:
                await client.uncordon(name)
            case _:
                words = " ".join(word for word in (what, name, address) if word is not None)
                raise UsageError(f"hosts {words}: is not complete, or no question", hint=HOSTS_TAKES)
        return ExitCode.DONE

    return ask(work, server)


def server_status(migration_id: str | None, json: bool) -> int:
    """`migrate status [ID]` of a server."""

    async def work(client: "Client") -> int:
        found = [await client.migration(migration_id)] if migration_id else await client.migrations()
        rows = [
            (one.id, one.source, str(one.pid), one.destination, one.state, one.phase, one.message)
            for one in found[::-1]
        ]
        heads = ("ID", "FROM", "PID", "TO", "STATE", "PHASE", "")
        lines = table_lines(heads, rows) if rows else ["This server knows of no migration."]
        lines += hint_lines(found[0].hint) if migration_id else []
        say([one.model_dump_json() for one in found] if json else lines, sys.stdout)
        return ExitCode.DONE

    return ask(work, None)


def ask(work: "Callable[[Client], Coroutine[object, object, T]]", server: str | None) -> T:
    """What `work` finds out from the server."""
    from pydantic import ValidationError

    from migrate.api.client import Client
    from migrate.wrong import wrong_with

    async def run() -> T:
        url = server or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER
        if not url.startswith(("http://", "https://")):
            where = "--server" if server else SERVER_VARIABLE
            raise UsageError(f"{where} {url}: is not the URL of a server", hint=f"for example {DEFAULT_SERVER}")
        async with Client(url, token=os.environ.get(TOKEN_VARIABLE, "")) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except ValidationError as error:
        raise UsageError(wrong_with(error, "the request")) from error


def parse_labels(pairs: list[str] | None) -> dict[str, str]:
    """K=V, several."""
    found = [pair.partition("=") for pair in pairs or ()]
    if wrong := ["".join(parts) for parts in found if not parts[0] or not parts[1]]:
        raise UsageError(f"label {wrong[0]!r}: is not K=V", hint="for example rack=b")
    return {key: value for key, _, value in found}


async def _under_way(client: "Client", host: str, cancel: "CancelDrain | None", json: bool) -> int:
    found = await client.drains(host=host)
    if not found:
        raise UsageError(f"host {host}: was never drained")
    shown = await client.cancel_drain(found[0].id, cancel) if cancel else found[0]
    _show(shown, json)
    return ExitCode.DONE


async def _follow(client: "Client", drain: "Drain", json: bool) -> int:
    """Tell every change, until it is over."""
    _show(drain, json)
    told = ""
    while True:
        now = await client.drain_state(drain.id)
        line = now.model_dump_json() if json else progress_line(now)
        if line != told:
            say([line], sys.stdout)
            told = line
        if now.state in OVER:
            break
        await asyncio.sleep(LOOK_S)
    for migration in await client.migrations(drain=drain.id):
        if migration.state not in ("done", "queued", "running") and not json:
            say(stayed_lines(migration.pid, migration.state, migration.message, migration.hint))
    if (stay := len(now.plan.unplaced)) and not json:
        say([f"{now.host} is not empty: {stay} {'workload stays' if stay == 1 else 'workloads stay'} there, see above"])
    return ExitCode.DONE if now.state in ("done", "away") and not stay else ExitCode.FAILED


def stayed_lines(pid: int, state: str, message: str, hint: str) -> list[str]:
    """Why a process was not moved, the state said once; its hint where there is one."""
    told = message if message.startswith(state) else f"{state}: {message}" if message else state
    return [f"  pid {pid} {told}", *(f"  {line}" for line in hint_lines(hint))]


def progress_line(drain: "Drain") -> str:
    """How it stands, in one line."""
    eta = f", about {drain.eta_s:.0f} s left" if drain.eta_s and drain.state == "running" else ""
    opens = f" until {drain.opens_at:%Y-%m-%d %H:%M} UTC" if drain.state == "waiting" and drain.opens_at else ""
    counts = f"{drain.moved} moved, {drain.running} under way, {drain.left} to go, {drain.failed} failed"
    counts += f", {drain.cancelled} cancelled" if drain.cancelled else ""
    return f"drain {drain.id}: {drain.state}{opens}: {drain.message or counts}{eta}"


def _show(drain: "Drain", json: bool) -> None:
    say([drain.model_dump_json()] if json else plan_lines(drain), sys.stdout)


def plan_lines(drain: "Drain") -> list[str]:
    """The plan as a table, then what stays and why."""
    rows = [
        (
            str(move.pid),
            move.name,
            move.destination,
            f"{move.memory_bytes >> 20} MiB",
            f"{move.begins_s:.0f} s",
            f"{move.takes_s:.0f} s",
        )
        for move in drain.plan.moves
    ]
    nothing = "Nothing can be moved." if drain.plan.unplaced else "Nothing to move."
    lines = table_lines(("PID", "WORKLOAD", "TO", "MEMORY", "BEGINS", "TAKES"), rows) if rows else [nothing]
    if drain.opens_at and drain.closes_at:
        lines.append(f"The window opens {drain.opens_at:%Y-%m-%d %H:%M} UTC and closes {drain.closes_at:%H:%M}.")
    for move in drain.plan.moves:
        if move.hindrance:
            lines.append(f"would be refused now: pid {move.pid} {move.name}: {move.hindrance}")
    for one in drain.plan.unplaced:
        lines += [f"stays: pid {one.pid} {one.name}: {one.reason}", f"  → {one.hint}"]
    return lines


def host_lines(found: "list[Host]") -> list[str]:
    """The hosts as a table."""
    rows = [
        (
            one.name,
            "unreachable" if one.unreachable else "cordoned" if one.cordoned else "ready",
            one.kernel or "?",
            f"{one.load:.1f}/{one.cpus}" if one.load is not None else "?",
            f"{(one.memory_available or 0) >> 20} MiB",
            str(len(one.workloads)),
            one.unreachable or one.cordon_reason,
        )
        for one in found
    ]
    return (
        table_lines(("HOST", "STATE", "KERNEL", "LOAD", "FREE", "WORKLOADS", ""), rows) if rows else ["No hosts yet."]
    )
