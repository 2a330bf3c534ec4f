"""The marks of an address space (code, data, brk, stack, arguments, auxv, exe), set again by PR_SET_MM_MAP."""

import struct
from collections.abc import Sequence
from typing import Final

from core.images.pb.memory_pb2 import MmEntry, VmaEntry
from core.plan.ops import FdAllocator, Pointers, Program, Syscall, path_argument
from core.proc.stat import Stat
from core.tracee.borrow import Results

PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_SET_MM: Final = 35
PR_SET_MM_MAP: Final = 14
PR_SET_THP_DISABLE: Final = 41
PR_GET_THP_DISABLE: Final = 42
MM_MAP_SIZE: Final = 104
AUXV_WORDS: Final = 48  # room the kernel has in mm->saved_auxv on x86-64 since 5.x; shorter vectors are taken too
AT_FDCWD: Final = (1 << 64) - 100
O_RDONLY_CLOEXEC: Final = 0o2000000

MM_MARKS: Final = (
    "mm_start_code", "mm_end_code", "mm_start_data", "mm_end_data", "mm_start_stack", "mm_start_brk", "mm_brk",
    "mm_arg_start", "mm_arg_end", "mm_env_start", "mm_env_end", "exe_file_id",
)  # fmt: skip


class MmQuestions:
    """Asked once per address space."""

    def __init__(self) -> None:
        self.brk = Syscall("brk", (0,), "end of the heap")
        self.dumpable = Syscall("prctl", (PR_GET_DUMPABLE, 0, 0, 0, 0), "dumpable")
        self.thp_disable = Syscall("prctl", (PR_GET_THP_DISABLE, 0, 0, 0, 0), "THP disable", may_fail=True)

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return (self.brk, self.dumpable, self.thp_disable)


def marks_of(stat: Stat) -> tuple[int, ...]:
    """The marks that begin() takes from there."""
    return (
        stat.start_code, stat.end_code, stat.start_data, stat.end_data, stat.start_stack, stat.start_brk,
        stat.arg_start, stat.arg_end, stat.env_start, stat.env_end,
    )  # fmt: skip


def begin(stat: Stat, auxv: Sequence[int], vmas: Sequence[VmaEntry]) -> MmEntry:
    """What of the mm image others than the task know: marks from /proc/PID/stat, auxv as 64-bit words."""
    return MmEntry(
        mm_start_code=stat.start_code, mm_end_code=stat.end_code, mm_start_data=stat.start_data,
        mm_end_data=stat.end_data, mm_start_stack=stat.start_stack, mm_start_brk=stat.start_brk,
        mm_arg_start=stat.arg_start, mm_arg_end=stat.arg_end, mm_env_start=stat.env_start, mm_env_end=stat.env_end,
        mm_saved_auxv=auxv, vmas=vmas,
    )  # fmt: skip


def collect(entry: MmEntry, exe_id: int, questions: MmQuestions, results: Results) -> None:
    """What only the task knows, and the number of its executable."""
    entry.mm_brk, entry.exe_file_id = results.value(questions.brk), exe_id
    entry.dumpable = results.value(questions.dumpable)
    entry.thp_disabled = results.value(questions.thp_disable) > 0


def plan(entry: MmEntry, exe_path: str, fds: FdAllocator) -> Program:
    """Set every mark at once. All VMAs are in place and nothing of the stem's own executable is mapped any more."""
    fd = fds.take()
    auxv = struct.pack(f"<{len(entry.mm_saved_auxv)}Q", *entry.mm_saved_auxv)
    marks = Pointers((
        entry.mm_start_code, entry.mm_end_code, entry.mm_start_data, entry.mm_end_data, entry.mm_start_brk,
        entry.mm_brk, entry.mm_start_stack, entry.mm_arg_start, entry.mm_arg_end, entry.mm_env_start,
        entry.mm_env_end, auxv, len(auxv) | fd << 32,
    ))  # fmt: skip
    fds.release(fd)
    ops = [
        Syscall("openat", (AT_FDCWD, path_argument(exe_path), O_RDONLY_CLOEXEC, 0), f"executable {exe_path}"),
        Syscall("prctl", (PR_SET_MM, PR_SET_MM_MAP, marks, MM_MAP_SIZE, 0), "marks of the address space"),
        Syscall("close", (fd,), f"executable {exe_path}"),
    ]
    thp_disabled = (PR_SET_THP_DISABLE, int(entry.thp_disabled), 0, 0, 0)  # either way: it is inherited
    ops.append(Syscall("prctl", thp_disabled, "THP disable", may_fail=not entry.thp_disabled))
    return tuple(ops)


def plan_dumpable(entry: MmEntry) -> Program:
    """After the credentials, which reset it; 2 (root only) cannot be set and comes about by itself."""
    if entry.dumpable not in (0, 1):
        return ()
    return (Syscall("prctl", (PR_SET_DUMPABLE, entry.dumpable, 0, 0, 0), "dumpable"),)


def bare_mm(entries: Sequence[VmaEntry]) -> MmEntry:
    """An mm image of which only the VMAs count."""
    mm = MmEntry(vmas=entries)
    for mark in MM_MARKS:
        setattr(mm, mark, 0)
    return mm
