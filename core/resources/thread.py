"""What a thread has beside registers and signals: name, robust list, rseq, clear_child_tid, parent-death signal."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker
from core.ids.shared import KCMP_FILES, KCMP_FS
from core.images.pb.core_pb2 import CoreEntry, ThreadCoreEntry
from core.kernel.calls import find_shared, kcmp
from core.kernel.rseq import size_here, written_here
from core.kernel.threads import ThreadState
from core.plan.ops import Out, Pointers, Program, Syscall, path_argument
from core.tracee.borrow import Results

PR_SET_PDEATHSIG: Final = 1
PR_GET_PDEATHSIG: Final = 2
PR_SET_NAME: Final = 15
PR_SET_TIMERSLACK: Final = 29
PR_GET_TID_ADDRESS: Final = 40
CLONE_ARGS_SIZE: Final = 88
# VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | CHILD_CLEARTID: what pthread_create(3) shares
CLONE_THREAD_FLAGS: Final = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x200000
CLONE_PTRACE: Final = 0x2000
PARTED: Final = {KCMP_FILES: "descriptor table", KCMP_FS: "working directory and umask"}
PARTED_HINT: Final = "wait until that thread has ended"


@dataclass(frozen=True, slots=True)
class ThreadQuestions:
    """Asked of every thread."""

    clear_child_tid: Syscall
    parent_death: Syscall

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return (self.clear_child_tid, self.parent_death)


def refuse_parted(pid: int, tids: Sequence[int]) -> list[Blocker]:
    """A thread of `tids` that has given up what it had in common with process `pid`, by unshare(2): its own of that has
    no image. OSError when one has ended."""
    return [
        Blocker("thread-parted", f"pid {pid}", f"its thread {tid} has a {what} of its own (unshare)", PARTED_HINT)
        for kind, what in PARTED.items()
        if (tid := _first_other(pid, tids, kind)) is not None
    ]


def _first_other(pid: int, tids: Sequence[int], kind: int) -> int | None:
    others = [tid for tid in tids if tid != pid]
    try:
        places = find_shared([pid, *others], kind).places
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        places = [0, *(kcmp(pid, tid, kind) for tid in others)]
    return next((tid for tid, place in zip(others, places[1:], strict=True) if place), None)


def thread_questions() -> ThreadQuestions:
    """Where does the kernel clear your tid when you end, and which signal do you get when your parent ends?"""
    return ThreadQuestions(
        Syscall("prctl", (PR_GET_TID_ADDRESS, Out(8), 0, 0, 0), "clear_child_tid"),
        Syscall("prctl", (PR_GET_PDEATHSIG, Out(4), 0, 0, 0), "parent-death signal"),
    )


def clear_child_tid(questions: ThreadQuestions, results: Results) -> int:
    """Address that is cleared when the thread ends."""
    return int.from_bytes(results.out(questions.clear_child_tid, 1), "little")


def parent_death_signal(questions: ThreadQuestions, results: Results) -> int:
    """Signal number, 0 for none."""
    return int.from_bytes(results.out(questions.parent_death, 1), "little")


def plan_clone(cores: Sequence[tuple[int, CoreEntry]]) -> Program:
    """Make the threads besides the leader, each traced from its first instruction and stopped there."""
    return tuple(_clone_op(tid, core) for tid, core in cores)


def _clone_op(tid: int, core: CoreEntry) -> Syscall:
    arguments = Pointers((
        CLONE_THREAD_FLAGS | CLONE_PTRACE, 0, core.thread_info.clear_tid_addr, 0, 0, 0, 0, 0,
        tid.to_bytes(4, "little"), 1, 0,
    ))  # fmt: skip
    return Syscall("clone3", (arguments, CLONE_ARGS_SIZE), f"thread {tid}")


def plan_leader(core: CoreEntry) -> Program:
    """What clone3 does for the others: where the leader's tid is cleared."""
    return (Syscall("set_tid_address", (core.thread_info.clear_tid_addr,), "clear_child_tid"),)


def plan(core: CoreEntry, state: ThreadState, comm: str) -> Program:
    """Per-thread state, to be run in the thread itself."""
    head, length = state.robust_list
    ops = [Syscall("prctl", (PR_SET_NAME, path_argument(comm), 0, 0, 0), f"name {comm!r}")]
    if head:
        ops.append(Syscall("set_robust_list", (head, length), f"robust list {head:#x}"))
    if state.rseq.address:
        rseq = state.rseq
        size = size_here(rseq.address, rseq.size, written_here())
        ops.append(Syscall("rseq", (rseq.address, size, 0, rseq.signature), f"rseq area {rseq.address:#x}"))
    return tuple(ops)


def plan_ended(leader: CoreEntry) -> Program:
    """The name of a leader that will have ended."""
    return (Syscall("prctl", (PR_SET_NAME, path_argument(leader.tc.comm), 0, 0, 0), f"name {leader.tc.comm!r}"),)


def plan_parent_death(entry: ThreadCoreEntry) -> Program:
    """After the credentials, a change of which clears it."""
    if not entry.pdeath_sig:
        return ()
    return (Syscall("prctl", (PR_SET_PDEATHSIG, entry.pdeath_sig, 0, 0, 0), "parent-death signal"),)
