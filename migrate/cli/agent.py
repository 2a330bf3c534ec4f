"""`migrate agent …`: what a coordinator (`migrate serve`) asks of a host over SSH. Not for people: JSON comes out."""

import json
import sys
from typing import Annotated

import typer

from core.errors import UsageError
from migrate.agent import Jobs, read_facts
from migrate.cli.watch import ExitCode
from migrate.journal import Journal

Words = Annotated[list[str] | None, typer.Argument(metavar="[ID] [ARGUMENTS…]", hidden=True)]


def agent(what: str, words: Words = None, skip: int = 0) -> int:
    """`facts`, `start ID -- ARGUMENTS`, `follow ID --skip N` or `cancel ID`."""
    jobs, given = Jobs(Journal.default()), list(words or ())
    match what, given:
        case "facts", []:
            _say(read_facts().to_json())
        case "start", [migration_id, *arguments]:
            _say(json.dumps({"started": jobs.start(migration_id, arguments)}))
        case "follow", [migration_id]:
            for line in jobs.follow(migration_id, skip):
                _say(line)
        case "cancel", [migration_id]:
            _say(json.dumps({"cancelled": jobs.cancel(migration_id)}))
        case _:
            raise UsageError(f"agent {what}: is not a question", hint="it is asked by `migrate serve`, not by a person")
    return ExitCode.DONE


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
