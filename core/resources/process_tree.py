"""The task itself: pstree, ids, and the core image of every thread put together from its parts."""

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker, ImageError
from core.images import kinds
from core.images.flags import TaskState
from core.images.pb.cgroup_pb2 import CgMemberEntry, CgroupEntry, CgSetEntry
from core.images.pb.core_pb2 import CoreEntry, TaskCoreEntry, ThreadCoreEntry
from core.images.pb.creds_pb2 import CredsEntry
from core.images.pb.ids_pb2 import TaskKobjIdsEntry
from core.images.pb.pstree_pb2 import PstreeEntry
from core.images.store import ImageSet
from core.kernel.threads import ThreadState
from core.plan.ops import Program, Syscall, path_argument
from core.plan.segments import HOST_IPC
from core.tracee.family import Member
from core.tracee.sigframe import signed

AT_FDCWD: Final = (1 << 64) - 100
RSEQ_CS_OFFSET: Final = 8
CGROUP_SET: Final = 1
EXIT_HINT: Final = "such a child (__WCLONE) cannot be made anew: wait until it has ended and was waited for"
LIVE_STATES: Final = (TaskState.ALIVE, TaskState.STOPPED, TaskState.LEADER_ENDED)


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """Ids of a task as it sees itself."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    tids: tuple[int, ...]


def collect_pstree(identity: TaskIdentity) -> PstreeEntry:
    """One task. The root's parent is 0: it is nobody of the tree."""
    return PstreeEntry(
        pid=identity.pid, ppid=identity.ppid, pgid=identity.pgid, sid=identity.sid, threads=identity.tids
    )


def collect_ids(vm: int, files: int, fs: int, sighand: int, ipc: int = HOST_IPC) -> TaskKobjIdsEntry:
    """A task's objects by number, in namespaces that are the host's but for `ipc`, which may be the tree's own."""
    return TaskKobjIdsEntry(
        vm_id=vm, files_id=files, fs_id=fs, sighand_id=sighand, pid_ns_id=1, net_ns_id=1, ipc_ns_id=ipc,
        uts_ns_id=1, mnt_ns_id=1, user_ns_id=1, cgroup_ns_id=1, time_ns_id=1,
    )  # fmt: skip


def host_ids() -> TaskKobjIdsEntry:
    """Whoever dumps has nothing in common with any task but the host's namespaces: criu looks at that."""
    return collect_ids(vm=0, files=0, fs=0, sighand=0)


def collect_cgroup(path: str | None) -> CgroupEntry:
    """Where the tree is in the v2 hierarchy, which has no name: `path` is below the mount point; None without v2."""
    if path is None:
        return CgroupEntry()
    member = CgMemberEntry(name="", path=path)
    return CgroupEntry(sets=[CgSetEntry(id=CGROUP_SET, ctls=[member])])


def cgroup_path(images: ImageSet) -> str | None:
    """Where the root was in the v2 hierarchy, as far as the images tell."""
    if not images.has(kinds.CGROUP) and not images.one(kinds.INVENTORY).dump_id:
        return None  # criu writes none of a tree that was where criu itself was; in a dump of ours it is missing
    sets = images.one(kinds.CGROUP).sets
    return next((one.path for entry in sets for one in entry.ctls if not one.name), None)


def collect_zombie_pstree(pid: int, parent: int, pgid: int, sid: int) -> PstreeEntry:
    """A task that has ended: one thread, its leader."""
    return PstreeEntry(pid=pid, ppid=parent, pgid=pgid, sid=sid, threads=[pid])


def collect_zombie_core(comm: str, exit_code: int) -> CoreEntry:
    """All that is left of it: name and how it ended, as wait(2) tells."""
    core = CoreEntry(mtype=CoreEntry.X86_64)
    core.tc.CopyFrom(
        TaskCoreEntry(task_state=TaskState.DEAD, exit_code=exit_code, personality=0, flags=0, blk_sigset=0, comm=comm)
    )
    return core


def collect_thread_core(
    entry: ThreadCoreEntry, robust_list: tuple[int, int], sigmask: int, rseq: tuple[int, int, int], xstate: bytes
) -> None:
    """Fill what ptrace tells of a thread. `rseq`: address, size, signature; `xstate`: the raw area to be kept."""
    entry.futex_rla, entry.futex_rla_len = robust_list
    entry.blk_sigset = sigmask
    entry.xstate = xstate
    if rseq[0]:
        entry.rseq_entry.rseq_abi_pointer, entry.rseq_entry.rseq_abi_size, entry.rseq_entry.signature = rseq


def collect_task_core(comm: str, flags: int, personality: int, sigmask: int, stop_signal: int) -> TaskCoreEntry:
    """The part that only the leader's image has. `stop_signal`: 0 unless job control has stopped it."""
    return TaskCoreEntry(
        task_state=TaskState.STOPPED if stop_signal else TaskState.ALIVE, exit_code=0, personality=personality,
        flags=flags & 0xFFFFFFFF, blk_sigset=sigmask, comm=comm, cg_set=CGROUP_SET, stop_signo=stop_signal,
    )  # fmt: skip


def collect_ended_leader(
    other: CoreEntry, task: TaskCoreEntry, creds: CredsEntry, comm: str, exit_code: int
) -> CoreEntry:
    """Image of a first thread that has ended while `other` and maybe more live on; it has what that one has, but for
    what ended with it. `task`: of the process; `exit_code`: wait(2)'s status, should nobody end the process otherwise.
    """
    core = CoreEntry()
    core.CopyFrom(other)
    core.thread_info.clear_tid_addr = core.thread_info.gpregs.ip = 0  # nobody is to go on where `other` does
    entry = core.thread_core
    entry.futex_rla = entry.futex_rla_len = entry.pdeath_sig = 0
    for name in ("sas", "rseq_entry", "xstate", "signals_p", "seccomp_mode", "seccomp_filter"):
        entry.ClearField(name)
    entry.creds.CopyFrom(creds)
    entry.signals_p.SetInParent()
    entry.comm = comm
    core.tc.CopyFrom(task)
    core.tc.task_state, core.tc.comm, core.tc.exit_code = TaskState.LEADER_ENDED, comm, exit_code
    core.tc.blk_sigset = entry.blk_sigset = 0
    return core


def has_ended_leader(core: CoreEntry) -> bool:
    """Of the leader's image."""
    return core.tc.task_state == TaskState.LEADER_ENDED


def is_stopped(core: CoreEntry) -> bool:
    """By job control; of the leader's image."""
    return core.tc.task_state == TaskState.STOPPED or (has_ended_leader(core) and bool(core.tc.stop_signo))


def leader_core(images: ImageSet, pid: int) -> CoreEntry:
    """The core image of a task's leader; ImageError when it is no live task."""
    core = images.one(kinds.CORE, pid)
    if not core.HasField("tc") or core.tc.task_state not in LIVE_STATES:
        raise ImageError(kinds.CORE.file_name(pid), "is not the image of a live task")
    return core


def tasks(images: ImageSet) -> list[PstreeEntry]:
    """Every task of the tree, the root first; ImageError when a parent is not among those before its child."""
    entries: list[PstreeEntry] = images.all(kinds.PSTREE)
    seen: set[int] = set()
    for entry in entries:
        if entry.pid in seen or (entry.ppid in seen) != bool(seen):
            raise ImageError("pstree.img", f"pid {entry.pid}: is no child of a task before it, or there twice")
        seen.add(entry.pid)
    if not entries:
        raise ImageError("pstree.img", "holds no task")
    return entries


def is_dead(images: ImageSet, pid: int) -> bool:
    """True for a zombie. A task without a core image, as in the rounds before a freeze, lives."""
    return images.has(kinds.CORE, pid) and images.one(kinds.CORE, pid).tc.task_state == TaskState.DEAD


def plan_fs(cwd: str, umask: int) -> Program:
    """Working directory and umask."""
    return (
        Syscall("chdir", (path_argument(cwd),), f"working directory {cwd}"),
        Syscall("umask", (umask,), "umask"),
    )


def plan_personality(personality: int) -> Program:
    """Execution domain flags; those of whoever restores it are to go."""
    return (Syscall("personality", (personality,), "personality"),)


def write_process_file(pid: int, name: str, content: str) -> str | None:
    """Write /proc/PID/`name`; a notice when this host does not allow it."""
    try:
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(content)
    except OSError as error:
        return f"pid {pid}: {name} = {content} not carried: {os.strerror(error.errno or 0)}"
    return None


def in_syscall(state: ThreadState) -> bool:
    """True when the thread was stopped inside a system call."""
    return signed(state.registers.orig_ax) >= 0


def refuse_exit_signal(pid: int, number: int) -> Blocker | None:
    """A refusal of a child whose parent is told of its end otherwise than of all others (`number`, 0: by no signal):
    clone(2) may choose."""
    if number == signal.SIGCHLD:
        return None
    how = f"by signal {number}" if number else "by no signal"
    return Blocker("exit-signal", f"pid {pid}", f"tells its parent of its end {how}, not by SIGCHLD", EXIT_HINT)


def refuse_exit_signals(members: Iterable[Member]) -> list[Blocker]:
    """Of those that were looked at; the tree's root has no parent here."""
    asked = [(one.tgid, one.stat.exit_signal) for one in members if one.parent and one.stat is not None]
    return [blocker for tgid, number in asked if (blocker := refuse_exit_signal(tgid, number)) is not None]
