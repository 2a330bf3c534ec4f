"""How a process lends us an area: two syscalls through its own code, each with a sigframe to come back by.

From the moment a thread's registers are changed there is an rt_sigframe that gives everything back, should we die.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from core.errors import RemoteSyscallError, TraceeError
from core.kernel import ptrace
from core.kernel.calls import SYSCALLS
from core.kernel.threads import ThreadState
from core.proc.maps import Vma
from core.proc.status import Status
from core.tracee.borrow import (
    MINUS_ONE,
    PAGE,
    STRAY_STOPS,
    Area,
    Borrow,
    blob,
    giving_back,
    quiet_signals,
)
from core.tracee.remote import Gadgets, RemoteMemory, find_gadgets, find_quiet_hole
from core.tracee.sigframe import STACK_ROOM, build_frame, frame_size, signed

RED_ZONE: Final = 128
DEFAULT_AREA: Final = 64 * PAGE
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE = 0x2, 0x20, 0x100000


def inject(thread: ThreadState, memory: RemoteMemory, gadgets: Gadgets, stack: int, name: str, *args: int) -> int:
    """One syscall through the target's own `syscall; ret`, with a sigframe at `stack` to come back by.

    Without a `stack` (0) there is none: the target would crash if we were killed in these microseconds.
    The thread is left in a stop from which its registers can be set; they still are the gadget's.
    """
    frame_address = stack or thread.registers.sp
    if stack:
        memory.write(frame_address, build_frame(thread, frame_address, gadgets.restorer))
    words = [argument & MINUS_ONE for argument in args] + [0] * (6 - len(args))
    registers = thread.registers._replace(
        ip=gadgets.syscall_ret, sp=frame_address, ax=SYSCALLS[name], orig_ax=MINUS_ONE,
        di=words[0], si=words[1], dx=words[2], r10=words[3], r8=words[4], r9=words[5],
    )  # fmt: skip
    tid = thread.tid
    ptrace.write_registers(tid, registers)
    ptrace.write_sigmask(tid, MINUS_ONE)
    _run_to_syscall_stop(tid)
    _run_to_syscall_stop(tid)
    result = signed(ptrace.read_registers(tid).ax)
    ptrace.interrupt(tid)
    ptrace.resume(tid)
    while not ptrace.wait_stop(tid).is_interrupt:
        ptrace.resume(tid)
    return result


def _run_to_syscall_stop(tid: int) -> None:
    for _ in range(STRAY_STOPS):
        ptrace.resume(tid, ptrace.PTRACE_SYSCALL)
        if ptrace.wait_stop(tid).syscall:
            return
    raise TraceeError(tid, "does not enter a borrowed system call")


def frame_place(vmas: Sequence[Vma], threads: Sequence[ThreadState]) -> int:
    """Where a first sigframe may lie: the unused low end of [stack]; 0 when a deep recursion has used it up."""
    stack = next((vma for vma in vmas if vma.name == "[stack]"), None)
    need = frame_size(len(threads[0].xstate)) + STACK_ROOM + RED_ZONE
    if stack is None or stack.end - stack.start < need:
        return 0
    if any(stack.start <= thread.registers.sp < stack.start + need for thread in threads):
        return 0
    return -(-(stack.start + STACK_ROOM) // 64) * 64


@dataclass(frozen=True, slots=True)
class Lender:
    """What is known of a process that lends us an area: its VMAs, gadgets and a place for the first frame."""

    memory: RemoteMemory
    vmas: tuple[Vma, ...]
    gadgets: Gadgets
    stack: int
    quiet: tuple[int, ...]
    own_ids: dict[int, int]

    def map_area(self, thread: ThreadState, size: int = DEFAULT_AREA, address: int | None = None) -> Borrow:
        """Map an area in the stopped thread's process (at `address`, or in a hole) and put the blob there."""
        address = find_quiet_hole(self.vmas, size + PAGE) if address is None else address
        area = Area(address, size)
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
        with giving_back(thread):
            self._call(thread, address, "mmap", size + PAGE, PROT_READ | PROT_EXEC, flags, MINUS_ONE, 0)
        try:
            with giving_back(thread):  # not the other way round: a task with MDWE may not gain PROT_EXEC
                self._call(thread, address + PAGE, "mprotect", size, PROT_READ | PROT_WRITE)
            self.memory.write(address, blob())
        except BaseException:
            self.unmap_area(thread, area)
            raise
        return Borrow(self.memory, area, self.quiet, own_ids=self.own_ids)

    def unmap_area(self, thread: ThreadState, area: Area) -> None:
        """Take the area away again."""
        with giving_back(thread):
            self._call(thread, area.address, "munmap", area.end - area.address)

    def _call(self, thread: ThreadState, address: int, name: str, *args: int) -> None:
        """A system call on our area at `address`, its first argument."""
        result = inject(thread, self.memory, self.gadgets, self.stack, name, address, *args)
        if result != (address if name == "mmap" else 0):
            raise RemoteSyscallError(thread.tid, 0, 1, name, -result, f"borrowed area at {address:#x}")


def find_lender(
    memory: RemoteMemory,
    vmas: Sequence[Vma],
    threads: Sequence[ThreadState],
    status: Status,
    *,
    own_ids: dict[int, int],
    gadgets: Gadgets | None = None,
) -> Lender:
    """Learn how to borrow from the process; TraceeError says why it cannot lend.

    `gadgets` takes milliseconds to find: find them before anything is stopped.
    """
    found = gadgets or find_gadgets(memory, vmas)
    return Lender(memory, tuple(vmas), found, frame_place(vmas, threads), quiet_signals(status), own_ids)


@contextmanager
def borrow(lender: Lender, thread: ThreadState, size: int = DEFAULT_AREA) -> Iterator[Borrow]:
    """An area for the time of a with block."""
    borrowed = lender.map_area(thread, size)
    try:
        yield borrowed
    finally:
        lender.unmap_area(thread, borrowed.area)
