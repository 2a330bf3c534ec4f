"""A stem's children: born with their final PID, traced from their first instruction, in their parent's image.

One that shares its parent's memory gets an area of its own in it; one that has a copy of it gives up those of others.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from core.errors import RestoreError
from core.kernel import ptrace
from core.plan.ops import FdAllocator, Pointers, Syscall
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.tracee.borrow import MINUS_ONE, PAGE, Area, blob
from core.tracee.lender import MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE
from core.tracee.remote import RemoteMemory, find_quiet_hole
from core.tracee.stem import AREA_SIZE, Stem

CLONE_VM: Final = 0x100
CLONE_PTRACE: Final = 0x2000
CLONE_PARENT: Final = 0x8000
CLONE_ARGS_SIZE: Final = 88
SIGCHLD: Final = 17
SET_TID_TAKEN: Final = -17


def fork_stem(parent: Stem, own_pid: int, reader: ProcReader, flags: int = 0, avoid: Sequence[Vma] = ()) -> Stem:
    """A child of `parent` that calls itself `own_pid`; it has a copy of its parent's memory and descriptors.

    An `own_pid` below zero: whatever is free. `flags` of clone3(2): what it shares; CLONE_PARENT makes it a sibling.
    `avoid`: where an area of ours in shared memory may not be.
    """
    shares = bool(flags & CLONE_VM)
    area = _map_area(parent, reader, avoid) if shares else parent.borrow.area
    set_tid = (own_pid.to_bytes(4, "little"), 1) if own_pid > 0 else (0, 0)
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD  # of a sibling: as the other's
    arguments = Pointers((CLONE_PTRACE | flags, 0, 0, 0, exit_signal, 0, 0, 0, *set_tid, 0))
    born = Syscall("clone3", (arguments, CLONE_ARGS_SIZE), f"pid {own_pid}", may_fail=True)
    result = parent.run((born,)).value(born)
    if result < 0:
        hint = "that PID is taken here: use --pid namespace" if result == SET_TID_TAKEN else None
        raise RestoreError(f"pid {own_pid}: clone3(set_tid) in pid {parent.own_pid}: errno {-result}", hint=hint)
    own_pid = result
    pid = _our_pid(parent, own_pid, reader, is_sibling=bool(flags & CLONE_PARENT))
    ptrace.wait_stop(pid)
    memory = RemoteMemory(pid)
    thread = replace(parent.leader, tid=pid)
    stem = Stem(
        pid, own_pid, memory, parent.borrow.of_child(memory, pid, own_pid, area), {own_pid: thread},
        FdAllocator(set(parent.fds.used)), parent.areas if shares else [area], parent.init,
    )  # fmt: skip
    try:
        others = [] if shares else [one for one in parent.areas if one != area]
        stem.run(tuple(Syscall("munmap", (one.address, one.end - one.address), "a relative's area") for one in others))
        return stem
    except BaseException:
        stem.kill()
        raise


def _map_area(parent: Stem, reader: ProcReader, avoid: Sequence[Vma]) -> Area:
    """One more in the parent's memory, with the blob in it."""
    area = Area(find_quiet_hole([*reader.maps(parent.pid), *avoid], AREA_SIZE + PAGE), AREA_SIZE)
    flags, why = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, "an area for one that shares the memory"
    parent.run((
        Syscall("mmap", (area.address, area.size + PAGE, PROT_READ | PROT_EXEC, flags, MINUS_ONE, 0), why),
        Syscall("mprotect", (area.writable, area.size, PROT_READ | PROT_WRITE), why),
    ))  # fmt: skip
    parent.memory.write(area.address, blob())
    parent.areas.append(area)
    return area


def _our_pid(parent: Stem, own_pid: int, reader: ProcReader, *, is_sibling: bool) -> int:
    if parent.init is None and parent.pid == parent.own_pid:
        return own_pid
    children = reader.children(reader.stat(parent.pid).ppid if is_sibling else parent.pid)
    for child in sorted(children, key=parent.born.__contains__):  # those last who may have ended, and been followed
        if reader.status(child).ns_pid[-1] == own_pid:
            parent.born.add(child)
            return child
    raise RestoreError(f"pid {own_pid}: was born and cannot be found")
