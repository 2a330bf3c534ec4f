"""/proc/PID/timers: the POSIX timers of a process (timer_create)."""

from dataclasses import dataclass

from core.proc.text import malformed


@dataclass(frozen=True, slots=True)
class PosixTimer:
    """One timer: its settings; times left are told only inside the process. `target` is pid.N or tid.N of `notify`."""

    timer_id: int
    signal: int
    value_pointer: int
    notify: str  # signal, none or thread
    target: int
    clock_id: int
    to_thread: bool = False  # SIGEV_THREAD_ID: `target` is a thread


def parse_timers(text: str, file: str = "timers") -> tuple[PosixTimer, ...]:
    """Timers in the kernel's order. Source: proc_pid_timers(5)."""
    found: list[PosixTimer] = []
    fields: dict[str, str] = {}
    first = 1
    for number, line in enumerate([*text.split("\n"), "ID:"], 1):
        key, colon, value = line.partition(":")
        if key == "ID" and fields:
            found.append(_assembled(fields, file, first))
            fields = {}
        if colon:
            first = number if key == "ID" else first
            fields[key] = value.strip()
        elif line:
            raise malformed(file, number, line)
    return tuple(found)


def _assembled(fields: dict[str, str], file: str, line_number: int) -> PosixTimer:
    try:
        signal, _, pointer = fields["signal"].partition("/")
        notify, _, target = fields["notify"].partition("/")
        return PosixTimer(
            int(fields["ID"]), int(signal), int(pointer, 16), notify, int(target.rpartition(".")[2]),
            int(fields["ClockID"]), target.startswith("tid."),
        )  # fmt: skip
    except (KeyError, ValueError):
        raise malformed(file, line_number, f"ID: {fields.get('ID', '')}") from None
