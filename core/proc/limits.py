"""/proc/PID/limits: the resource limits, with prlimit(2)'s numbers."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.errors import CollectError
from core.proc.text import malformed

UNLIMITED: Final = (1 << 64) - 1
_NAMES: Final = (
    "cpu time", "file size", "data size", "stack size", "core file size", "resident set", "processes", "open files",
    "locked memory", "address space", "file locks", "pending signals", "msgqueue size", "nice priority",
    "realtime priority", "realtime timeout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: `resource` is RLIMIT_*'s number."""

    resource: int
    name: str
    soft: int
    hard: int


def parse_limits(text: str, file: str = "limits") -> tuple[Limit, ...]:
    """Limits by number; one this program does not know is left out. Source: proc_pid_limits(5)."""
    try:
        return _known(text)
    except CollectError:
        return _parse(text, file)


@lru_cache(maxsize=64)
def _known(text: str) -> tuple[Limit, ...]:
    """The tasks of a tree mostly have the same."""
    return _parse(text, "limits")


def _parse(text: str, file: str) -> tuple[Limit, ...]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("Limit ") or not line:
            continue
        name = line[:26].strip().removeprefix("Max ")
        try:
            soft, hard = (UNLIMITED if word == "unlimited" else int(word) for word in line[26:].split()[:2])
        except ValueError:
            raise malformed(file, number, line) from None
        if name in _NAMES:
            found.append(Limit(_NAMES.index(name), name, soft, hard))
    return tuple(sorted(found, key=lambda limit: limit.resource))
