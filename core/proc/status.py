"""/proc/PID/status: identity, credentials, signals and capabilities of a task."""

import re
from dataclasses import dataclass
from typing import Final

from core.errors import CollectError
from core.proc.text import malformed, printable

_ESCAPED: Final = re.compile(r"\\(n|\\)")


@dataclass(frozen=True, slots=True)
class Status:
    """One task. Fields that an older kernel does not write are None; sizes in bytes, masks as integers.

    uids and gids are real, effective, saved, file system. ns_* go from our namespace to the innermost.
    """

    name: str
    umask: int | None
    state: str  # one letter: R S D T t Z X I
    tgid: int
    pid: int
    ppid: int
    tracer_pid: int
    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    fd_size: int | None
    groups: tuple[int, ...]
    ns_tgid: tuple[int, ...]
    ns_pid: tuple[int, ...]
    ns_pgid: tuple[int, ...]
    ns_sid: tuple[int, ...]
    kthread: bool | None
    vm_size: int | None  # None for a kernel thread or a zombie
    vm_rss: int | None
    vm_locked: int | None
    vm_swap: int | None
    rss_anon: int | None
    threads: int
    sig_queued: tuple[int, int] | None
    sig_pending: int
    shared_pending: int
    blocked: int
    ignored: int
    caught: int
    cap_inh: int
    cap_prm: int
    cap_eff: int
    cap_bnd: int
    cap_amb: int
    no_new_privs: bool | None
    seccomp: int | None  # 0 none, 1 strict, 2 filter
    seccomp_filters: int | None
    cpus_allowed: frozenset[int]


def parse_status(text: str, file: str = "status") -> Status:
    """Record of one task. Source: proc_pid_status(5)."""
    fields = _Fields(text, file)
    return Status(
        name=fields.name(), umask=fields.optional("Umask", 8), state=fields.text("State")[:1],
        tgid=fields.number("Tgid"), pid=fields.number("Pid"), ppid=fields.number("PPid"),
        tracer_pid=fields.number("TracerPid"), uids=fields.four("Uid"), gids=fields.four("Gid"),
        fd_size=fields.optional("FDSize"), groups=fields.numbers("Groups"), ns_tgid=fields.numbers("NStgid"),
        ns_pid=fields.numbers("NSpid"), ns_pgid=fields.numbers("NSpgid"), ns_sid=fields.numbers("NSsid"),
        kthread=fields.flag("Kthread"), vm_size=fields.size("VmSize"), vm_rss=fields.size("VmRSS"),
        vm_locked=fields.size("VmLck"), vm_swap=fields.size("VmSwap"), rss_anon=fields.size("RssAnon"),
        threads=fields.optional("Threads") or 1,
        sig_queued=fields.queue(), sig_pending=fields.number("SigPnd", 16),
        shared_pending=fields.number("ShdPnd", 16), blocked=fields.number("SigBlk", 16),
        ignored=fields.number("SigIgn", 16), caught=fields.number("SigCgt", 16), cap_inh=fields.number("CapInh", 16),
        cap_prm=fields.number("CapPrm", 16), cap_eff=fields.number("CapEff", 16), cap_bnd=fields.number("CapBnd", 16),
        cap_amb=fields.optional("CapAmb", 16) or 0, no_new_privs=fields.flag("NoNewPrivs"),
        seccomp=fields.optional("Seccomp"), seccomp_filters=fields.optional("Seccomp_filters"),
        cpus_allowed=fields.cpus(),
    )  # fmt: skip


def unescaped_name(text: str) -> str:
    """A comm as the task has it."""
    return printable(_ESCAPED.sub(lambda match: "\n" if match[1] == "n" else "\\", text) if "\\" in text else text)


class _Fields:
    """Lines "Key:\\tvalue" by key, each with its line number for the error."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._values: dict[str, tuple[int, str]] = {}
        for number, line in enumerate(text.split("\n"), 1):
            key, colon, value = line.partition(":")
            if colon:
                stripped = value.removeprefix("\t") if key == "Name" else value.strip()
                self._values.setdefault(key, (number, stripped))
            elif line:
                raise malformed(file, number, line)

    def _bad(self, key: str) -> CollectError:
        number, value = self._values[key]
        return malformed(self._file, number, f"{key}:\t{value}")

    def text(self, key: str) -> str:
        if key not in self._values:
            raise CollectError(self._file, f"has no line {key}")
        return self._values[key][1]

    def name(self) -> str:
        """The comm, of which the kernel escapes newline and backslash."""
        return unescaped_name(self.text("Name"))

    def number(self, key: str, base: int = 10) -> int:
        try:
            return int(self.text(key), base)
        except ValueError:
            raise self._bad(key) from None

    def optional(self, key: str, base: int = 10) -> int | None:
        return self.number(key, base) if key in self._values else None

    def flag(self, key: str) -> bool | None:
        value = self.optional(key)
        return None if value is None else bool(value)

    def numbers(self, key: str) -> tuple[int, ...]:
        if key not in self._values:
            return ()
        try:
            return tuple(map(int, self.text(key).split()))
        except ValueError:
            raise self._bad(key) from None

    def four(self, key: str) -> tuple[int, int, int, int]:
        values = self.numbers(key)
        if len(values) != 4:
            raise self._bad(key) if key in self._values else CollectError(self._file, f"has no line {key}")
        return values[0], values[1], values[2], values[3]

    def size(self, key: str) -> int | None:
        """Bytes of a line "1234 kB"."""
        if key not in self._values:
            return None
        value, _, unit = self.text(key).partition(" ")
        if unit.strip() != "kB" or not value.isdecimal():
            raise self._bad(key)
        return int(value) * 1024

    def queue(self) -> tuple[int, int] | None:
        if "SigQ" not in self._values:
            return None
        queued, slash, limit = self.text("SigQ").partition("/")
        if not slash or not queued.isdecimal() or not limit.isdecimal():
            raise self._bad("SigQ")
        return int(queued), int(limit)

    def cpus(self) -> frozenset[int]:
        """Numbers in Cpus_allowed, a mask in 32-bit groups with commas."""
        if "Cpus_allowed" not in self._values:
            return frozenset()
        try:
            mask = int(self.text("Cpus_allowed").replace(",", ""), 16)
        except ValueError:
            raise self._bad("Cpus_allowed") from None
        return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)
