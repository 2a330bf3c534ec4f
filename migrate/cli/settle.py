"""`migrate status` and `migrate resolve`: migrations this host knows, and how one of them is brought to its end."""

import asyncio
import dataclasses
import json as json_format
import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import UsageError
from migrate.cli.fleet import SERVER_VARIABLE, server_status
from migrate.cli.logs import MigrationStamp, start_logging
from migrate.cli.options import IdText, Json, LogFile, Verbose
from migrate.cli.parse import parse_choice, parse_id
from migrate.cli.report import hint_lines, table_lines
from migrate.cli.watch import ExitCode, say
from migrate.errors import Unsettled
from migrate.journal import Entry, Journal, Role
from migrate.machine import CopyState, State

if TYPE_CHECKING:
    from migrate.resolve import Settled

OPEN_STATES = frozenset({State.HANDING_OVER, State.HANDED_OVER, State.IN_DOUBT})
KEEP_CHOICES = ("source", "destination")


def status(
    migration_id: Annotated[str | None, typer.Argument(metavar="ID", hidden=True)] = None,
    json: Json = False,
) -> int:
    """List the migrations this host took part in and where each stands, or tell all about the one called ID.

    With MIGRATE_SERVER set: those of that server.
    """
    if os.environ.get(SERVER_VARIABLE):
        return server_status(migration_id, json)
    journal = Journal.default()
    entries = [entry for role in Role for entry in journal.entries(role)]
    if migration_id is not None:
        entries = [entry for entry in entries if entry.id == parse_id("ID", migration_id)]
        if not entries:
            journal.require(migration_id, Role.SOURCE)
    entries.sort(key=lambda entry: entry.steps[-1].at if entry.steps else 0.0)
    if json:
        say([json_format.dumps(dataclasses.asdict(entry)) for entry in entries] or [], sys.stdout)
        return ExitCode.DONE
    say(status_lines(entries) if migration_id is None else detail_lines(entries), sys.stdout)
    return ExitCode.DONE


def status_lines(entries: list[Entry]) -> list[str]:
    """One line per migration, the newest last; those that need somebody are named below."""
    if not entries:
        return ["This host knows of no migration."]
    rows = [(entry.id, entry.role, str(entry.pid), entry.state, _since(entry), entry.peer) for entry in entries]
    unsettled = [entry for entry in entries if needs_settling(entry)]
    return [
        *table_lines(("ID", "SIDE", "PID", "STATE", "SINCE", "OTHER HOST"), rows),
        *(f"→ {settling_hint(entry)}" for entry in unsettled),
    ]


def detail_lines(entries: list[Entry]) -> list[str]:
    """Each side's steps with their times."""
    lines = []
    for entry in entries:
        lines.append(
            f"{entry.id}: {entry.role} of PID {entry.pid}, other host {entry.peer or 'unknown'}: {entry.state}"
        )
        lines += [f"  {_clock(step.at)}  {step.state}" for step in entry.steps]
        why = "rolled back: " if entry.state == State.ROLLED_BACK else ""
        lines += [f"  {why}{entry.detail}"] if entry.detail else []
        lines += [f"→ {settling_hint(entry)}"] if needs_settling(entry) else []
    return lines


def needs_settling(entry: Entry) -> bool:
    """True when somebody's process stands frozen until a person or a restart acts."""
    if entry.role is Role.SOURCE:
        return entry.state in OPEN_STATES
    return entry.state in (CopyState.READY, CopyState.RESUMING)


def settling_hint(entry: Entry) -> str:
    """What to do about it, and where."""
    if entry.role is Role.SOURCE:
        return f"settle it: migrate resolve {entry.id}"
    return f"settle it on {entry.peer or 'the source host'}: migrate resolve {entry.id}"


def _since(entry: Entry) -> str:
    return _clock(entry.steps[-1].at) if entry.steps else "?"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def resolve(
    migration_id: IdText,
    keep: Annotated[
        str | None,
        typer.Option(metavar="source|destination", help="Your word on which copy is to run, when nobody else can say."),
    ] = None,
    verbose: Verbose = 0,
    log_file: LogFile = None,
) -> int:
    """Bring a migration that was left in the middle to its end: exactly one copy runs afterwards.

    Asks the destination's journal. --keep is for when that host cannot be asked: be sure that the other copy does not
    run.
    """
    if keep is not None:
        parse_choice("--keep", keep, KEEP_CHOICES)
    stamp = MigrationStamp()
    stamp.migration_id = parse_id("ID", migration_id)
    start_logging(log_file, verbose, stamp)
    journal = Journal.default()
    entry = journal.read(migration_id, Role.SOURCE)
    if entry is None and (copy := journal.read(migration_id, Role.DESTINATION)) is not None:
        hint = f"run it there: migrate resolve {migration_id}"
        raise UsageError(
            f"migration {migration_id}: is settled by its source, {copy.peer or 'another host'}", hint=hint
        )
    entry = entry or journal.require(migration_id, Role.SOURCE)
    try:
        with journal.lock_target(entry.boot_id, entry.pid, entry.start_time):
            settled = asyncio.run(_resolve(entry, keep))
    except Unsettled as error:
        say([f"migrate: still in doubt: {error.message}", *hint_lines(error.hint)])
        return ExitCode.IN_DOUBT
    say([f"Migration {migration_id} is settled: {settled.text}."], sys.stdout)
    return ExitCode.DONE


async def _resolve(entry: Entry, keep: str | None) -> "Settled":
    from migrate.resolve import Keep, resolve
    from migrate.wiring import live_means

    async with live_means(entry) as means:
        return await resolve(means, entry.id, Keep(keep) if keep else None)
