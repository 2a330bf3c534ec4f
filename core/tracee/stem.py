"""The stem: what a restored task begins as. Spawned with its final PID, emptied, then filled by programs."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from core.errors import RestoreError, TraceeError
from core.kernel import ptrace
from core.kernel.calls import SYSCALLS
from core.kernel.threads import ThreadState
from core.options import PidMode
from core.plan.encode import Steps, assembled
from core.plan.ops import FdAllocator, Syscall
from core.proc.main_thread import is_dead
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.tracee.borrow import MINUS_ONE, PAGE, Area, Borrow, Results, all_but
from core.tracee.lender import find_lender
from core.tracee.namespace_init import ENDING_POLL_S, NamespaceInit, spawn_in_namespace
from core.tracee.remote import RemoteMemory, find_quiet_hole
from core.tracee.spawn import attach, spawn
from core.vdso.mark import NAMES as KERNEL_NAMES

STEM_FILE: Final = Path(__file__).parent.parent / "native" / "stem"
AREA_SIZE: Final = 3 << 20
SYSCALL_INSTRUCTION: Final = b"\x0f\x05"
ENDING_S: Final = 10.0


@dataclass(slots=True)
class Stem:
    """A task in the making: `pid` is ours for it, `own_pid` what it calls itself.

    `threads` maps the tid a thread calls itself to our view of it; leader first.
    """

    pid: int
    own_pid: int
    memory: RemoteMemory
    borrow: Borrow
    threads: dict[int, ThreadState]
    fds: FdAllocator = field(default_factory=FdAllocator)
    areas: list[Area] = field(default_factory=list)  # of all tasks that share its memory
    init: NamespaceInit | None = None  # None: it is in our PID namespace
    born: set[int] = field(default_factory=set)  # of it, or beside it: their PIDs as we see them
    _ended: bool = False

    @property
    def init_pid(self) -> int:
        """Our PID of its namespace's init; 0: it is in ours."""
        return self.init.pid if self.init is not None else 0

    @property
    def leader(self) -> ThreadState:
        """The first thread of those that live."""
        return next(iter(self.threads.values()))

    def run(self, steps: Steps) -> Results:
        """Run a program in the leader."""
        return self.borrow.run(self.leader, steps) if steps else Results(assembled(()), b"")

    def adopt_threads(self, own_tids: Sequence[int], tids: Sequence[int]) -> None:
        """Take over threads that a program has made: each stands in its first stop."""
        for own_tid, tid in zip(own_tids, tids, strict=True):
            ptrace.wait_stop(tid)
            self.threads[own_tid] = replace(self.leader, tid=tid)
            self.borrow.add_task(tid, own_tid)

    def kill(self) -> None:
        """End it for good and reap it, traced or parked; its namespace too. Idempotent."""
        if not self._ended:
            self._ended = True  # the PID may be somebody else's from now on
            end_stem(self.pid, self.init)
        self.memory.close()


def make_stem(
    pid: int, avoid: Sequence[Vma], reader: ProcReader, cgroup_fd: int = -1, pid_mode: PidMode = "keep",
    timens_offsets: str = "",
) -> Stem:  # fmt: skip
    """Make a stem that calls itself `pid` and whose memory holds nothing but our area and the kernel's own VMAs.

    `avoid` are the VMAs that the task will have: our area keeps out of their way. `timens_offsets`: see spawn().
    """
    init, thread = _begin(pid, reader, cgroup_fd, pid_mode, timens_offsets)
    memory = RemoteMemory(thread.tid)
    try:
        vmas = reader.maps(thread.tid)
        own_ids = {thread.tid: pid}
        lender = find_lender(memory, vmas, [thread], reader.status(thread.tid), own_ids=own_ids)
        hole = find_quiet_hole([*vmas, *avoid], AREA_SIZE + PAGE)
        borrow = lender.map_area(thread, AREA_SIZE, hole)
        stem = Stem(thread.tid, pid, memory, borrow, {pid: thread}, areas=[borrow.area], init=init)
        own = [vma for vma in vmas if vma.name not in (*KERNEL_NAMES, "[vsyscall]")]
        stem.run(tuple(_unmap(vma) for vma in own))
        return stem
    except BaseException:
        memory.close()
        end_stem(thread.tid, init)
        raise


def _begin(
    pid: int, reader: ProcReader, cgroup_fd: int, pid_mode: PidMode, timens_offsets: str
) -> tuple[NamespaceInit | None, ThreadState]:
    """The init of its own namespace if it gets one, and the new stem in a ptrace stop."""
    if pid_mode == "namespace":
        return spawn_in_namespace(pid, reader, cgroup_fd, timens_offsets)
    what = f"pid {pid}: clone3(set_tid)"
    spawned = spawn(STEM_FILE, [pid], cgroup_fd, 0, what, timens_offsets=timens_offsets)
    try:
        return None, attach(spawned)
    except BaseException:
        end_stem(spawned, None)
        raise


def end_stem(pid: int, init: NamespaceInit | None) -> None:
    """Kill and reap a task of ours, traced or parked; with all of its namespace if it has one."""
    if init is not None:
        init.kill(ProcReader())
        return
    tids = sorted(_tids(pid), key=lambda tid: tid != pid)  # also those that were made and not adopted yet
    try:
        os.kill(pid, signal.SIGKILL)
        ptrace.reap_killed(tids)
        os.waitpid(pid, 0x40000000)  # __WALL
    except (ProcessLookupError, ChildProcessError):
        pass


def _tids(pid: int) -> list[int]:
    try:
        return ProcReader().tids(pid)
    except ProcessLookupError:
        return []


def _unmap(vma: Vma) -> Syscall:
    return Syscall("munmap", (vma.start, vma.end - vma.start), f"the stem's own {vma.path or 'memory'}")


def find_syscall_instruction(stem: Stem, reader: ProcReader) -> int:
    """Address of a `syscall` in code that the task keeps; the vDSO has one."""
    memory, tid = stem.memory, stem.leader.tid
    for vma in reader.maps_named(tid, "[vdso]") or reader.maps(tid):
        if vma.executable and vma.readable and vma.name != "[vsyscall]":
            position = memory.read(vma.start, min(vma.end - vma.start, 1 << 22)).find(SYSCALL_INSTRUCTION)
            if position >= 0:
                return vma.start + position
    raise TraceeError(memory.pid, "has no `syscall` instruction in its code, so our area cannot be taken away")


def remove_areas(stems: Sequence[Stem], reader: ProcReader) -> None:
    """Unmap our areas by a `syscall` of the tasks' own code, all at once. Only registers may be set afterwards."""
    for stem in stems:
        _call_munmap(stem, find_syscall_instruction(stem, reader))
    for _ in range(2):
        for stem in stems:
            ptrace.resume(stem.leader.tid, ptrace.PTRACE_SYSCALL)
        for stem in stems:
            if not ptrace.wait_stop(stem.leader.tid).syscall:
                raise RestoreError(f"pid {stem.pid}: did not reach its last system call")
    for stem in stems:
        if result := ptrace.read_registers(stem.leader.tid).ax:
            raise RestoreError(f"pid {stem.pid}: munmap of the restorer's area failed: {os.strerror(2**64 - result)}")


def _call_munmap(stem: Stem, instruction: int) -> None:
    area, tid = stem.borrow.area, stem.leader.tid
    registers = stem.leader.registers._replace(
        ip=instruction, ax=SYSCALLS["munmap"], orig_ax=MINUS_ONE, di=area.address,
        si=area.end - area.address, sp=area.writable,
    )  # fmt: skip
    ptrace.write_registers(tid, registers)
    ptrace.write_sigmask(tid, all_but(signal.SIGKILL))


def end_leader(stem: Stem, exit_code: int, reader: ProcReader) -> None:
    """The first thread ends with this wait(2) status, and no other: it exits by a `syscall` of the task's own code, let
    go, for a tracer would stand between its end and who waits for it. The next thread takes its place in the stem.
    """
    instruction = find_syscall_instruction(stem, reader)
    leader = stem.threads.pop(stem.own_pid)
    registers = leader.registers._replace(ip=instruction, ax=SYSCALLS["exit"], orig_ax=MINUS_ONE, di=exit_code >> 8)
    ptrace.write_registers(leader.tid, registers)
    ptrace.write_sigmask(leader.tid, MINUS_ONE)
    ptrace.detach([leader.tid])
    deadline = time.monotonic() + ENDING_S
    while not is_dead(leader.tid, reader):
        if time.monotonic() > deadline:
            raise RestoreError(f"pid {stem.own_pid}: its first thread does not end")
        time.sleep(ENDING_POLL_S)
