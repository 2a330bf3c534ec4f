"""Marks of a process that nobody can put back: another instruction set, LDT, I/O ports, AMX tiles, keyrings, a label.

What /proc tells is asked before the freeze; what only ptrace or the process itself can tell, inside of it.
"""

from dataclasses import dataclass, field
from typing import Final

from core.errors import CollectError
from core.kernel.threads import Registers
from core.plan.ops import Out, Program, Syscall
from core.tracee.borrow import Results

CODE_64_BIT: Final = 0x33  # cs of 64-bit user code
IOPL: Final = 0x3000  # of the flags register
ARCH_GET_XCOMP_PERM: Final = 0x1022
AMX_TILES: Final = 1 << 18  # the tiles' data, which a process must ask for; their configuration (17) everybody may use
KEYCTL_GET_KEYRING_ID: Final = 0
THREAD_KEYRING, PROCESS_KEYRING = -1, -2
UNLABELLED: Final = frozenset({"", "kernel", "unconfined"})


@dataclass(frozen=True, slots=True)
class ThreadMarks:
    """Asked of every thread."""

    keyring: Syscall = field(
        default_factory=lambda: Syscall(
            "keyctl", (KEYCTL_GET_KEYRING_ID, THREAD_KEYRING, 0), "thread keyring", may_fail=True
        )
    )

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return (self.keyring,)


@dataclass(frozen=True, slots=True)
class ProcessMarks:
    """Asked once per process."""

    ldt: Syscall = field(default_factory=lambda: Syscall("modify_ldt", (0, Out(16), 16), "LDT", may_fail=True))
    keyring: Syscall = field(
        default_factory=lambda: Syscall(
            "keyctl", (KEYCTL_GET_KEYRING_ID, PROCESS_KEYRING, 0), "process keyring", may_fail=True
        )
    )
    xfeatures: Syscall = field(
        default_factory=lambda: Syscall(
            "arch_prctl", (ARCH_GET_XCOMP_PERM, Out(8)), "CPU state asked for", may_fail=True
        )
    )

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return (self.ldt, self.keyring, self.xfeatures)


def check_thread(tid: int, registers: Registers, *, has_io_ports: bool, keyring: int) -> None:
    """CollectError when the thread has something that cannot be carried. `keyring`: what its mark answered."""
    if reason := judge_registers(registers.cs, registers.flags):
        raise CollectError(f"thread {tid}", reason)
    if has_io_ports:
        raise CollectError(f"thread {tid}", "has I/O ports of its own (ioperm), which are not carried")
    if keyring > 0:
        raise CollectError(f"thread {tid}", "has a thread keyring, which is not carried")


def judge_registers(cs: int, flags: int) -> str:
    """Why a thread in this state cannot be carried; empty when it can."""
    if cs != CODE_64_BIT:
        return f"runs 32-bit code (cs {cs:#x}), which is not carried"
    return "may use all I/O ports (iopl), which is not carried" if flags & IOPL else ""


def check_process(pid: int, marks: ProcessMarks, results: Results) -> None:
    """CollectError when the process has something that cannot be carried."""
    if results.value(marks.ldt) > 0:
        raise CollectError(f"pid {pid}", "has a local descriptor table (modify_ldt), which is not carried")
    if results.value(marks.keyring) > 0:
        raise CollectError(f"pid {pid}", "has a process keyring, which is not carried")
    if int.from_bytes(results.out(marks.xfeatures, 1), "little") & AMX_TILES and results.value(marks.xfeatures) == 0:
        raise CollectError(f"pid {pid}", "may use AMX tiles, which are not carried")


def judge_shadow_stack(status: str) -> str:
    """Why a process with this /proc/PID/status cannot be carried; empty when its features (CET) are all off. Pure."""
    features = next((line for line in status.splitlines() if line.startswith("x86_Thread_features:")), "")
    return "has a shadow stack (CET), which is not carried" if "shstk" in features else ""


def judge_label(its: str, ours: str) -> str:
    """Why a security label cannot be carried; empty when there is none, or the one that it gets here anyway."""
    label = its.strip("\0\n")
    if label in UNLABELLED or label == ours.strip("\0\n"):
        return ""
    return f"has the security label {label}, which is not carried"
