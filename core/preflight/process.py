"""Refusals of a process as such: what it is, who holds it, whom it belongs to. Reads only /proc; stops nothing."""

import os
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from core.errors import Blocker
from core.kernel.capabilities import capability_mask, capability_names
from core.kernel.ipc_namespace import with_us
from core.preflight.fingerprint import ELFCLASS32, read_elf_class
from core.preflight.records import HostRecord, PreflightOptions
from core.proc.main_thread import is_dead
from core.proc.reader import ProcReader
from core.proc.stat import Stat
from core.proc.status import Status
from core.resources import refused, terminal, thread
from core.tracee.family import Family, ended_leader_blocker, read_family

COMING: Final = "not carried yet, coming"
THREAD_NAMESPACES: Final = ("net", "mnt", "uts", "cgroup", "pid_for_children", "time_for_children")
THREAD_HINT: Final = "let it unshare that before it has threads"
NAMESPACES: Final = ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup")  # its clocks go on in any time namespace
SOURCE_CAPABILITIES: Final = capability_mask("SYS_PTRACE", "SYS_ADMIN", "DAC_OVERRIDE", "KILL")
NAMED_AT_MOST: Final = 5
LOOKS: Final = 4  # while the tree forks


def refuse_hopeless(reader: ProcReader, pid: int) -> Blocker | None:
    """The one reason after which nothing else is worth asking."""
    subject = f"pid {pid}"
    try:
        status, stat = reader.status(pid), reader.stat(pid)
    except ProcessLookupError:
        return Blocker("no-process", subject, "does not exist", "find it with `pgrep -a NAME`")
    if status.tgid != pid:
        return Blocker("thread", subject, f"is a thread of process {status.tgid}", f"give {status.tgid}")
    if stat.is_kernel_thread:
        return Blocker("kernel-thread", subject, f"is the kernel thread {status.name}", "only programs can move")
    if status.state in "ZX" and len(reader.tids(pid)) <= 1:
        hint = f"it has ended already; its parent {status.ppid} has yet to collect it"
        return Blocker("zombie", subject, "is a zombie", hint)
    if pid == os.getpid():
        return Blocker("ourselves", subject, "is this very program", "give the PID of another process")
    if pid == 1:
        return Blocker("init", subject, "is the init of this host", "only what it started can move")
    if pid in ancestors(reader, os.getpid()):
        hint = "run migrate from a shell that is not part of it, e.g. from another login or by `setsid`"
        return Blocker("ancestor", subject, f"is {status.name}, which runs this program", hint)
    return None


def ancestors(reader: ProcReader, pid: int) -> set[int]:
    """Parent, its parent, … as far as this /proc shows them."""
    found: set[int] = set()
    try:
        while (pid := reader.stat(pid).ppid) and pid not in found:
            found.add(pid)
    except ProcessLookupError:
        pass
    return found


def refuse_rights(host: HostRecord) -> Blocker | None:
    """Why we may not do this, judged by what we are."""
    missing = SOURCE_CAPABILITIES & ~host.capabilities
    if missing:
        who = "this user" if host.user_id else "root here"
        reason = f"{who} lacks {', '.join(capability_names(missing))}"
        return Blocker("rights", "migrate", reason, "run it as root: `sudo migrate …`")
    if host.seccomp:
        hint = "start it outside of the container or sandbox that filters system calls"
        return Blocker("own-seccomp", "migrate", "runs under a seccomp filter, so it may not stop others'", hint)
    return None


def refuse_ended_leaders(family: Family, host: HostRecord) -> list[Blocker]:
    """Processes whose first thread has ended, on a kernel that gives no pidfd of another. Pure."""
    ended = [one.tgid for one in family.living if one.pid != one.tgid]
    return [] if "pidfd_thread" in host.features else [ended_leader_blocker(pid) for pid in ended]


def refuse_process(reader: ProcReader, status: Status, stat: Stat) -> list[Blocker]:
    """Everything about the process that does not go yet."""
    pid = status.pid
    found = [
        refuse_tracer(status, _name_of(reader, status.tracer_pid)), _refuse_label(reader, pid),
        _refuse_32_bit(reader, pid), _refuse_shadow_stack(reader, pid), _refuse_executable(reader, pid),
        _refuse_root(reader, pid),
    ]  # fmt: skip
    ours = reader.namespaces(threading.get_native_id())  # of IPC: its root's, which this thread has entered
    found += refuse_namespaces(pid, reader.namespaces(pid), ours)
    found += _refuse_threads_elsewhere(pid, reader)
    found += _refuse_threads_parted(pid, reader)
    return [blocker for blocker in found if blocker is not None]


def _name_of(reader: ProcReader, pid: int) -> str:
    try:
        return reader.comm(pid) if pid else ""
    except OSError:
        return "?"


def refuse_tracer(status: Status, tracer: str) -> Blocker | None:
    """A debugger holds it. Pure."""
    if not status.tracer_pid:
        return None
    reason = f"is traced by {tracer} (pid {status.tracer_pid})"
    return Blocker("traced", f"pid {status.pid}", reason, f"end {tracer} or detach it")


def _refuse_label(reader: ProcReader, pid: int) -> Blocker | None:
    """A label of SELinux, AppArmor or Smack other than our own, with which the copy is born."""
    reason = refused.judge_label(_read_label(reader, pid), _read_label(reader, os.getpid()))
    return Blocker("security-label", f"pid {pid}", reason, "start it without a profile of its own") if reason else None


def _read_label(reader: ProcReader, pid: int) -> str:
    try:
        return reader.text(pid, "attr/current")
    except OSError:  # no security module that labels processes
        return ""


def _refuse_shadow_stack(reader: ProcReader, pid: int) -> Blocker | None:
    reason = refused.judge_shadow_stack(reader.text(pid, "status"))
    hint = "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"
    return Blocker("shadow-stack", f"pid {pid}", reason, hint) if reason else None


def _refuse_32_bit(reader: ProcReader, pid: int) -> Blocker | None:
    try:
        if read_elf_class(reader.path(pid, "exe")) != ELFCLASS32:
            return None
    except OSError:
        return None
    return Blocker("32-bit", f"pid {pid}", "is a 32-bit program", "only 64-bit programs are carried")


def _refuse_executable(reader: ProcReader, pid: int) -> Blocker | None:
    """Its own program must be there, by its name."""
    exe = reader.exe(pid)
    if not exe.endswith(" (deleted)") or os.path.lexists(reader.path(pid, "root") + exe):
        return None
    hint = "restart the program after its upgrade"
    return Blocker("exe-deleted", f"pid {pid}", f"its executable {exe.removesuffix(' (deleted)')} is deleted", hint)


def _refuse_root(reader: ProcReader, pid: int) -> Blocker | None:
    root = reader.root(pid)
    if root == "/":
        return None
    return Blocker("chroot", f"pid {pid}", f"has {root} as its root directory", f"chroot is {COMING}")


def refuse_namespaces(pid: int, its: dict[str, int], ours: dict[str, int]) -> list[Blocker]:
    """Namespaces other than ours, each by name. Pure."""
    differing = [name for name in NAMESPACES if its.get(name) != ours.get(name)]
    differing += [
        f"{name} (of its children)"
        for name in ("pid", "time")
        if its.get(f"{name}_for_children") not in (None, its.get(name))
    ]
    hint = f"namespaces are {COMING}; run migrate inside of them, or the process outside"
    return [Blocker("namespace", f"pid {pid}", f"is in another {name} namespace", hint) for name in differing]


def _refuse_threads_elsewhere(pid: int, reader: ProcReader) -> list[Blocker]:
    """Each thread may have its own; that of the first is its process's, and was looked at."""
    tids = set(reader.tids(pid)) - {pid} if with_us([pid]) else set()
    elsewhere = tids.difference(with_us(tids)).intersection(reader.tids(pid))
    elsewhere = {tid for tid in elsewhere if not is_dead(tid, reader)}
    if not elsewhere:
        return []
    reason = f"its thread {min(elsewhere)} is in another ipc namespace"
    return [Blocker("namespace", f"pid {pid}", reason, THREAD_HINT)]


def _refuse_threads_parted(pid: int, reader: ProcReader) -> list[Blocker]:
    """Threads with other things of their own than those that every thread has; the freeze asks again for most."""
    names = [f"ns/{name}" for name in THREAD_NAMESPACES]
    found = []
    for tid in reader.tids(pid):
        its = reader.links([(pid, name) for name in names] + [(pid, f"task/{tid}/{name}") for name in names])
        pairs = zip(THREAD_NAMESPACES, its[: len(names)], its[len(names) :], strict=True)
        other = [name for name, one, two in pairs if one != two and isinstance(one, bytes) and isinstance(two, bytes)]
        reasons = [f"its thread {tid} is in another {name} namespace" for name in other]
        found += [Blocker("namespace", f"pid {pid}", reason, THREAD_HINT) for reason in reasons]
        with suppress(OSError):  # it has ended
            if tid != pid and not is_dead(pid, reader) and (parted := thread.refuse_parted(pid, [tid])):
                found += [] if is_dead(tid, reader) else parted
    return found


def refuse_others_in_ipc(family: Family, reader: ProcReader) -> list[Blocker]:
    """Who else is in the tree's IPC namespace, which this thread has entered: all in it goes along."""
    root, others = family.members[0].tgid, reader.pids()
    for _ in range(LOOKS):
        inside = {os.getpid(), *family.pids}
        others = [pid for pid in with_us(others) if pid not in inside]
        if not others:
            return []
        family = read_family(root, reader)
    named = ", ".join(f"{pid} ({_name_of(reader, pid)})" for pid in others[:NAMED_AT_MOST])
    more = f" and {len(others) - NAMED_AT_MOST} more" if len(others) > NAMED_AT_MOST else ""
    reason = f"shares its IPC namespace with processes that do not go along: {named}{more}"
    return [Blocker("ipc-shared", f"pid {root}", reason, "move all of them as one tree, or end them")]


def refuse_parted(family: Family, terminals: Collection[int]) -> list[Blocker]:
    """Who has given up the terminal that its session has; `terminals` as in notice_process. Pure."""
    leaders = {one.sid for one in family.living if terminal.number_of_device(one.terminal) in terminals}
    hint = "restart it in a session of its own: setsid PROGRAM"
    return [
        Blocker("terminal-left", f"pid {one.pid}", "has given up the terminal of its session (TIOCNOTTY)", hint)
        for one in family.living
        if one.sid in leaders and not one.terminal
    ]


def notice_process(status: Status, stat: Stat, options: PreflightOptions, terminals: Collection[int] = ()) -> list[str]:
    """What will be different, though it goes. `terminals`: N of every /dev/pts/N that goes along."""
    notices = []
    if status.ns_sid and status.ns_sid[-1] != status.ns_pid[-1] and not options.shell_job:
        notices.append(f"its session leader {stat.session} stays here: it gets a session of its own over there")
    if stat.tty_nr and terminal.number_of_device(stat.tty_nr) not in terminals and not options.shell_job:
        notices.append("its controlling terminal stays here: it has none over there")
    pending = status.sig_pending | status.shared_pending
    if pending:
        signals = [str(number + 1) for number in range(64) if pending >> number & 1]
        notices.append(f"signals pending now: {', '.join(signals)}")
    return notices
