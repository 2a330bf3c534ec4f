"""An action script that notes how it was called and can be told, moment by moment, to fail or to hang."""

from dataclasses import dataclass
from pathlib import Path

# It looks at where the root stands while it is called: the root's state, and "-" when there is none.
TEXT = """#!/bin/sh
state=-
if [ -n "$CRTOOLS_INIT_PID" ]; then
  state=$(sed -n 's/^State:[[:space:]]*\\(.\\).*/\\1/p' /proc/$CRTOOLS_INIT_PID/status)
fi
echo "$CRTOOLS_SCRIPT_ACTION ${CRTOOLS_IMAGE_DIR:--} ${CRTOOLS_INIT_PID:--} $state" >>FOLDER/called
if [ -e FOLDER/hang-$CRTOOLS_SCRIPT_ACTION ]; then echo $$ >FOLDER/hanging; exec sleep 1000; fi
if [ -e FOLDER/fail-$CRTOOLS_SCRIPT_ACTION ]; then echo the disk is full >&2; exit 7; fi
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: "-" where the environment did not say."""

    action: str
    images: str
    pid: str
    state: str


def make_script(path: Path, notes: str) -> str:
    """The script at `path`, with its notes in the directory `notes`."""
    path.write_text(TEXT.replace("FOLDER", notes))
    path.chmod(0o755)
    return str(path)


def calls(notes: Path) -> list[Call]:
    """All calls so far."""
    file = notes / "called"
    return [Call(*line.split()) for line in file.read_text().splitlines()] if file.exists() else []


def actions(notes: Path) -> list[str]:
    """The moments at which it was called."""
    return [call.action for call in calls(notes)]
