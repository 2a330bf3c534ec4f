"""The few lines of /proc/PID/status that are read of every thread while a tree stands still; the rest is parsed later.

The kernel writes them in this order. Source: proc_pid_status(5), fs/proc/array.c.
"""

from dataclasses import dataclass

from core.errors import CollectError
from core.proc.status import Status, parse_status, unescaped_name


@dataclass(frozen=True, slots=True)
class BriefStatus:
    """A thread as its status says, masks as integers. Ids are those in its innermost namespace.

    `rights` are the lines that tell its credentials: equal lines, equal credentials.
    """

    text: bytes
    name: str
    umask: int | None
    state: str
    own_pid: int
    own_tid: int
    pgid: int
    sid: int
    sig_pending: int
    shared_pending: int
    seccomp: int
    rights: bytes

    def whole(self) -> Status:
        """All of it."""
        return parse_status(self.text.decode("utf-8", "surrogateescape"))


def parse_brief(text: bytes, file: str = "status") -> BriefStatus:
    """Record of one task; CollectError when it is no status."""
    try:
        state = text.index(b"\nState:\t")
        uid = text.index(b"\nUid:\t", state)
        spaces = text.index(b"\nNStgid:\t", uid)
        pid = text.index(b"\nNSpid:\t", spaces)
        pgid = text.index(b"\nNSpgid:\t", pid)
        sid = text.index(b"\nNSsid:\t", pgid)
        pending = text.index(b"\nSigPnd:\t", sid)
        blocked = text.index(b"\nSigBlk:\t", pending)
        caps = text.index(b"\nCapInh:\t", blocked)
        seccomp = text.find(b"\nSeccomp:\t", caps)
        end = text.find(b"\n", seccomp + 10) if seccomp >= 0 else -1
        return BriefStatus(
            text=text,
            name=unescaped_name(text[6 : text.index(b"\n")].decode("utf-8", "surrogateescape")),
            umask=_octal(text[text.index(b"\n") : state]),
            state=text[state + 8 : state + 9].decode(),
            own_pid=_last(text[spaces + 9 : pid]),
            own_tid=_last(text[pid + 8 : pgid]),
            pgid=_last(text[pgid + 9 : sid]),
            sid=_last(text[sid + 8 : text.index(b"\n", sid + 8)]),
            sig_pending=int(text[pending + 9 : pending + 25], 16),
            shared_pending=int(text[pending + 34 : pending + 50], 16),
            seccomp=int(text[seccomp + 10 : end]) if seccomp >= 0 else 0,
            rights=text[uid:spaces] + text[caps : end if end >= 0 else len(text)],
        )
    except ValueError:
        raise CollectError(file, "is not as the kernel writes it") from None


def _octal(line: bytes) -> int | None:
    """The line Umask, which an older kernel does not write."""
    return int(line[8:], 8) if line.startswith(b"\nUmask:\t") else None


def _last(numbers: bytes) -> int:
    return int(numbers.rpartition(b"\t")[2])
