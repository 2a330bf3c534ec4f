"""Files of /proc that show one process: whose they are."""

import re
from pathlib import Path
from typing import Final, NamedTuple

from core.proc.brief import parse_brief

_OF_PROCESS: Final = re.compile(r"/proc/([0-9]+)(?:/task/([0-9]+))?(?: \(deleted\))?(?:/|\Z)")


class Whose(NamedTuple):
    """The process, and the thread if it is a thread's file; as that /proc numbers them."""

    pid: int
    tid: int

    @property
    def is_of_thread(self) -> bool:
        """Of one that is not the first."""
        return self.tid not in (0, self.pid)


def whose(path: str) -> Whose | None:
    """Of which process a path of /proc is; None: of none. Pure."""
    found = _OF_PROCESS.match(path)
    return None if found is None else Whose(int(found[1]), int(found[2] or 0))


def numbers_itself_so(pid: int, seen_by: int) -> bool:
    """Whether who is `pid` in the /proc of process `seen_by` calls itself that, too: not from a PID namespace above."""
    try:
        return parse_brief(Path(f"/proc/{seen_by}/root/proc/{pid}/status").read_bytes()).own_tid == pid
    except OSError:
        return False
