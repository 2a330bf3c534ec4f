"""/proc/PID/stat: the 52 numbers of a task, by name."""

from typing import Final, NamedTuple

from core.proc.text import malformed, printable

PF_KTHREAD: Final = 0x00200000


class Stat(NamedTuple):
    """All fields of proc_pid_stat(5) in its order; times in clock ticks, addresses 0 when not ours to see.

    Fields that an older kernel lacks are 0.
    """

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    session: int
    tty_nr: int
    tpgid: int
    flags: int
    min_flt: int
    cmin_flt: int
    maj_flt: int
    cmaj_flt: int
    user_time: int
    system_time: int
    child_user_time: int
    child_system_time: int
    priority: int
    nice: int
    num_threads: int
    it_real_value: int
    start_time: int
    vsize: int
    rss: int
    rss_limit: int
    start_code: int
    end_code: int
    start_stack: int
    kstk_esp: int
    kstk_eip: int
    signal: int
    blocked: int
    sig_ignore: int
    sig_catch: int
    wchan: int
    nswap: int
    cnswap: int
    exit_signal: int
    processor: int
    rt_priority: int = 0
    policy: int = 0
    delayacct_blkio_ticks: int = 0
    guest_time: int = 0
    child_guest_time: int = 0
    start_data: int = 0
    end_data: int = 0
    start_brk: int = 0
    arg_start: int = 0
    arg_end: int = 0
    env_start: int = 0
    env_end: int = 0
    exit_code: int = 0

    @property
    def is_kernel_thread(self) -> bool:
        """True for kthreadd and its children."""
        return bool(self.flags & PF_KTHREAD)


_LAST_FIXED: Final = len(Stat._fields) - len(Stat._field_defaults)


def parse_stat(text: str, file: str = "stat") -> Stat:
    """Record of one task. The comm may hold blanks and parentheses: the last ")" ends it."""
    opening, closing = text.find("("), text.rfind(")")
    try:
        if opening < 0 or closing < opening:
            raise ValueError
        state, *numbers = text[closing + 1 :].split()
        values = tuple(map(int, numbers[: len(Stat._fields) - 3]))
        if len(values) + 3 < _LAST_FIXED:
            raise ValueError
        return Stat(int(text[:opening]), printable(text[opening + 1 : closing]), state, *values)
    except ValueError:
        raise malformed(file, 1, text.strip()) from None
