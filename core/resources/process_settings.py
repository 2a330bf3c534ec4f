"""What a process chose for itself as a whole: membarrier registrations, reaper, MDWE, core dump filter, autogroup."""

from dataclasses import dataclass, field
from typing import Final

from core.images.pb.core_pb2 import TaskCoreEntry
from core.images.pb.memory_pb2 import MmEntry
from core.plan.ops import Out, Program, Syscall
from core.tracee.borrow import Results

PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_CHILD_SUBREAPER: Final = 37
PR_SET_MDWE: Final = 65
PR_GET_MDWE: Final = 66
MEMBARRIER_GET_REGISTRATIONS: Final = 1 << 9
# GLOBAL, PRIVATE, PRIVATE_SYNC_CORE and PRIVATE_RSEQ: each command is also its bit in the answer.
MEMBARRIER_REGISTER: Final = (1 << 2, 1 << 4, 1 << 6, 1 << 8)


@dataclass(frozen=True, slots=True)
class ProcessSettingQuestions:
    """Asked once per process."""

    membarrier: Syscall = field(
        default_factory=lambda: Syscall(
            "membarrier", (MEMBARRIER_GET_REGISTRATIONS, 0, 0), "membarrier registrations", may_fail=True
        )
    )
    subreaper: Syscall = field(
        default_factory=lambda: Syscall("prctl", (PR_GET_CHILD_SUBREAPER, Out(4), 0, 0, 0), "child subreaper")
    )
    mdwe: Syscall = field(
        default_factory=lambda: Syscall("prctl", (PR_GET_MDWE, 0, 0, 0, 0), "memory-deny-write-execute", may_fail=True)
    )

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return (self.membarrier, self.subreaper, self.mdwe)


def collect(questions: ProcessSettingQuestions, results: Results, entry: TaskCoreEntry) -> None:
    """Fill the fields of the task's image."""
    entry.membarrier_registration_mask = max(0, results.value(questions.membarrier))
    entry.child_subreaper = any(results.out(questions.subreaper, 1))


def collect_mm(questions: ProcessSettingQuestions, results: Results, coredump_filter: int, entry: MmEntry) -> None:
    """Fill the fields of the address space's image."""
    entry.mdwe = max(0, results.value(questions.mdwe))
    entry.coredump_filter = coredump_filter


def plan(entry: TaskCoreEntry) -> Program:
    """Register for membarrier(2) as before."""
    mask = entry.membarrier_registration_mask
    return tuple(
        Syscall("membarrier", (command, 0, 0), f"membarrier registration {command:#x}")
        for command in MEMBARRIER_REGISTER
        if mask & command
    )


def plan_seal(entry: TaskCoreEntry, mm: MmEntry | None) -> Program:
    """When no child is made and nothing mapped any more. `mm` None: the memory is another task's, too."""
    ops: list[Syscall] = []
    if entry.child_subreaper:
        ops.append(Syscall("prctl", (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "child subreaper"))
    if mm is not None and mm.mdwe:
        ops.append(Syscall("prctl", (PR_SET_MDWE, mm.mdwe, 0, 0, 0), "memory-deny-write-execute"))
    return tuple(ops)


def parse_autogroup_nice(text: str) -> int:
    """Nice value in /proc/PID/autogroup: "/autogroup-25 nice 0"; 0 where there is none."""
    words = text.split()
    return int(words[-1]) if len(words) == 3 and words[1] == "nice" else 0
