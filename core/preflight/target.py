"""The source's half of preflight: what the target needs, and every reason why it cannot go. Nothing is stopped.

A table of contents over the refusals; reads /proc and duplicates descriptors, and gives all of them back.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_
from typing import Final

from core.errors import Blocker, KernelLacks, MigrateError
from core.kernel.calls import pidfd_open
from core.kernel.ipc_namespace import in_ipc_namespace_of
from core.memory.dirty.kept import without_our_marks
from core.preflight.files import (
    SocketTables,
    collect_files,
    collect_listens,
    collect_scripts,
    collect_uses,
    note_folder,
    refuse_names,
)
from core.preflight.fingerprint import Fingerprints
from core.preflight.host import collect_host
from core.preflight.memory import (
    add_huge_pages,
    memory_bytes,
    needs_of_memory,
    notice_tracker,
    notice_tracking,
    private_huge_pages,
    read_max_map_count,
    refuse_memory,
    refuse_rings,
    refuse_tracker,
)
from core.preflight.process import (
    notice_process,
    refuse_ended_leaders,
    refuse_hopeless,
    refuse_others_in_ipc,
    refuse_parted,
    refuse_process,
    refuse_rights,
)
from core.preflight.records import FileNeed, HostRecord, ListenNeed, PreflightOptions, TargetRecord
from core.preflight.shared_memory import collect_shared
from core.preflight.sharing import refuse_kinship, refuse_sharing
from core.preflight.socket_options import collect_options
from core.preflight.supervisors import find_supervisor
from core.proc.blocking import blocking_calls
from core.proc.brief import parse_brief
from core.proc.maps import SmapsVma
from core.proc.reader import ProcReader, content_of
from core.proc.status import Status
from core.proc.text import printable
from core.resources import (
    aio,
    file_table,
    posix_mqueue,
    sem_undo,
    sysv_ipc,
    terminal,
    untold_sockets,
)
from core.resources.context import OpenFile, OpenTable, make_table, open_files
from core.resources.process_tree import refuse_exit_signals
from core.tracee.family import Family, await_vforks, has_ended, read_family, vforks, without
from core.tracee.sharers import find_sharers
from core.tracee.vfork import is_vfork, vfork_blocker

USES_NAMED: Final = 8
LOOKS: Final = 4  # at who else has a file open, while the tree forks
AMX: Final = 0x3 << 17  # a task must ask for its tiles; those that did are refused when they are frozen
SOURCE_FEATURES: Final = ("ptrace", "kcmp", "pidfd_getfd")
DESTINATION_FEATURES: Final = ("clone3_set_tid", "ptrace", "pr_set_mm_map", "vdso_moves")


@dataclass(frozen=True, slots=True)
class TargetFindings:
    """What preflight found of a target. When it is hopeless the record is empty: a host has nothing to judge."""

    record: TargetRecord
    blockers: tuple[Blocker, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Belongings:
    files: tuple[FileNeed, ...]
    listens: tuple[ListenNeed, ...]
    max_fd: int


@dataclass(frozen=True, slots=True)
class _Known:
    """What the processes of a tree have in common."""

    everything: OpenTable  # that any of them has open
    fingerprints: Fingerprints
    sockets: SocketTables


def collect_facts(
    pid: int, options: PreflightOptions, *, host: HostRecord | None = None, reader: ProcReader | None = None
) -> TargetFindings:
    """Everything about `pid` that this side can tell; the target runs on as if nobody looked."""
    reader = reader or ProcReader()
    hopeless = refuse_hopeless(reader, pid)
    if hopeless is not None:
        return TargetFindings(TargetRecord(), (hopeless,), ())
    host = host or collect_host(reader)
    rights = refuse_rights(host)
    if rights is not None:
        return TargetFindings(TargetRecord(host=host), (rights,), ())
    try:
        with ExitStack() as stack:
            try:
                own_ipc = stack.enter_context(in_ipc_namespace_of(pid))
            except KernelLacks as error:
                barred = Blocker("ipc-namespace", f"pid {pid}", error.message, "run it as root: `sudo migrate …`")
                return TargetFindings(TargetRecord(host=host), (barred,), ())
            found = _collect(reader, pid, options, host, own_ipc=own_ipc)
            if not found.blockers:
                return found
            return without_passing(found, _collect(reader, pid, options, host, own_ipc=own_ipc))
    except ProcessLookupError:
        gone = Blocker("no-process", f"pid {pid}", "ended while it was looked at", "see `pgrep -a NAME`")
        if not has_ended(pid, reader):
            reason = "has ended its first thread, and others end while they are looked at"
            gone = Blocker("leader-ended", f"pid {pid}", reason, "try again")
        return TargetFindings(TargetRecord(), (gone,), ())


def without_passing(before: TargetFindings, now: TargetFindings) -> TargetFindings:
    """The second of two looks, refused by what both saw, if not of the same descriptor. Pure.

    A running task changes while its state is read, piece by piece: what does not fit together then is no reason.
    """
    seen = {blocker.code for blocker in before.blockers}
    return replace(now, blockers=tuple(blocker for blocker in now.blockers if blocker.code in seen))


def _collect(
    reader: ProcReader, pid: int, options: PreflightOptions, host: HostRecord, *, own_ipc: bool
) -> TargetFindings:
    family, in_vfork = _read_settled(pid, reader)
    if ended := refuse_ended_leaders(family, host):
        return TargetFindings(TargetRecord(host=host), tuple(ended), ())
    root = family.members[0].pid
    with ExitStack() as stack:
        family, tables = _open_tables(stack, family, reader)
        everything = make_table([file for files in tables.values() for file in files], options.of_dump)
        everything = replace(everything, own_pids=frozenset(member.own_pid for member in family.members))
        everything = replace(everything, holders=file_table.find_peer_holders(everything, reader))
        others = _find_other_holders(everything, pid, tables, reader)
        known = _Known(everything, Fingerprints(), SocketTables(reader))
        findings = {}
        for member in family.living:
            with suppress_ended(member.pid, root, reader):
                findings[member.pid] = _collect_member(reader, member.pid, tables[member.pid], known, options, host)
        family = without(family, {member.pid for member in family.living} - set(findings))
        sharers = find_sharers([member.pid for member in family.living], reader)
        findings |= {pid: _without_memory(findings[pid]) for pid in sharers}
        found = [findings[member.pid] for member in family.living]
        shared = collect_shared(family, everything.files, reader, own_ipc=own_ipc)
        queues = () if own_ipc else posix_mqueue.needs(everything.files)
        options_needed = collect_options(everything.files)
        losses, terminals = file_table.losses(everything), terminal.numbers(everything.files)
    supervisor = find_supervisor(reader, pid, reader.status(pid).ppid)
    blockers = [*in_vfork, *refuse_sharing(reader, family), *refuse_kinship(reader, family, sharers)]
    blockers += refuse_exit_signals(family.members)
    blockers += [*_blockers(family, found), *shared.blockers]

    def inside() -> set[int]:
        return read_family(pid, reader).pids

    sets = reader.semaphore_sets()
    undos = sem_undo.find([member.pid for member in family.living], sets, reader.tids)
    pids = [member.tgid for member in family.living]
    waits = partial(blocking_calls, pids, reader)
    ipc = sysv_ipc.find_used(pids, reader, sets, undos.sets, waits, own_ipc=own_ipc)
    blockers += refuse_others_in_ipc(family, reader) if own_ipc else []
    blockers += [*sysv_ipc.refuse(ipc, inside, reader), *sem_undo.refuse(undos, ipc.sets)]
    blockers += sem_undo.refuse_outsiders(ipc.sets, inside, reader)
    blockers += refuse_parted(family, terminals)
    blockers += [
        *([supervisor] if supervisor else []),
        *refuse_kernel(host),
        *refuse_tracker(options.track, host),
        *_not_named_yet(others, blockers),
    ]
    status, stat = reader.status(root), reader.stat(root)
    notices = [*notice_process(status, stat, options, terminals), *losses]
    notices += dict.fromkeys(notice for one in found for notice in one.notices)
    notices += notice_tracker(options.track, host)
    notices += ["it has an IPC namespace to itself: the copy gets one too, with all that is in it"] if own_ipc else []
    if not host.has_freezer:
        notices.append("no cgroup v2 can be made here: SIGSTOP will hold the process, which any SIGCONT undoes")
    record = merge_records([one.record for one in found])
    needs = {"huge_pages": record.huge_pages or shared.huge_pages, "ipc_namespace": own_ipc}
    record = replace(
        record,
        memory_bytes=record.memory_bytes + shared.size_bytes,
        sysv=() if own_ipc else (*shared.sysv, *sysv_ipc.needs(ipc)),
        queues=queues,
        options=options_needed,
        huge_pages=add_huge_pages([record.huge_pages, shared.huge_pages]),
        kernel_needs=(*record.kernel_needs, *(name for name, needed in needs.items() if needed)),
    )
    record = replace(record, pids=tuple(sorted({*record.pids, *(member.own_pid for member in family.dead)})))
    record = replace(record, files=(*record.files, *collect_scripts(options, host.boot_id)))
    return TargetFindings(record, tuple(map(_printable, blockers)), tuple(map(printable, notices)))


def _read_settled(root: int, reader: ProcReader) -> tuple[Family, list[Blocker]]:
    """The tree without children in vfork(2), and who waits for one of these for too long."""
    pairs = vforks(read_family(root, reader), reader)
    stuck: list[Blocker] = []
    try:
        await_vforks(pairs, reader)
    except MigrateError:
        still = [(parent, child) for child, parent in pairs.items() if is_vfork(parent, child, reader)]
        stuck = [vfork_blocker(parent, child, reader) for parent, child in still]
    family = read_family(root, reader)
    return without(family, set(vforks(family, reader))), stuck


@contextmanager
def suppress_ended(pid: int, root: int, reader: ProcReader) -> Iterator[None]:
    """A process below the root may end while it is looked at."""
    try:
        yield
    except (MigrateError, OSError):
        if pid == root or not has_ended(pid, reader):
            raise


def _open_tables(
    stack: ExitStack, family: Family, reader: ProcReader
) -> tuple[Family, dict[int, tuple[OpenFile, ...]]]:
    """Open files of the living, and who of the family is still there."""
    tables: dict[int, tuple[OpenFile, ...]] = {}
    for member in family.living:
        with suppress_ended(member.pid, family.members[0].pid, reader):
            tables[member.pid] = _open_table(stack, member.pid, reader)
    return without(family, {member.pid for member in family.living} - set(tables)), tables


def _find_other_holders(table: OpenTable, root: int, known: Iterable[int], reader: ProcReader) -> list[Blocker]:
    """Refusals of what somebody outside of the tree has open too; who is born into it meanwhile is not outside."""
    others: list[Blocker] = []
    for _ in range(LOOKS):
        inside = {*known, os.getpid(), *read_family(root, reader).pids}
        others = file_table.find_other_holders(table, sorted(inside), reader)
        if not others:
            break
    return others


def _open_table(stack: ExitStack, pid: int, reader: ProcReader) -> tuple[OpenFile, ...]:
    pidfd = pidfd_open(pid)
    stack.callback(os.close, pidfd)
    return stack.enter_context(open_files(pid, reader, pidfd, runs=True))


def _blockers(family: Family, found: list[TargetFindings]) -> list[Blocker]:
    """Of all processes, each saying which it is about when there are several; what many share is named once."""
    named: dict[tuple[str, str], Blocker] = {}
    for member, findings in zip(family.living, found, strict=True):
        for blocker in findings.blockers:
            subject = blocker.subject
            if len(found) > 1 and not subject.startswith("pid "):
                subject = f"pid {member.tgid}: {subject}"
            named.setdefault((blocker.subject, blocker.reason), replace(blocker, subject=subject))
    return list(named.values())


def _collect_member(
    reader: ProcReader, pid: int, files: tuple[OpenFile, ...], known: _Known, options: PreflightOptions,
    host: HostRecord,
) -> TargetFindings:  # fmt: skip
    """One process of the tree, whose descriptors are `files`."""
    status, stat, smaps = reader.status(pid), reader.stat(pid), without_our_marks(pid, reader.smaps(pid))
    uses, listens = collect_uses(reader, pid, smaps, files), collect_listens(reader, pid, files, known.sockets)
    for listen in listens:
        if listen.path.startswith("/"):
            note_folder(uses, listen.path)
    blockers = (
        *refuse_process(reader, status, stat), *refuse_memory(smaps), *refuse_rings(pid, smaps), *refuse_names(uses),
        *file_table.refuse(known.everything, files), *_refuse_untold(pid, reader),
    )  # fmt: skip
    notices = notice_tracking(smaps, read_max_map_count())
    belongings = _Belongings(
        files=collect_files(reader, pid, uses, options, host.boot_id, known.fingerprints, known.everything.own_pids),
        listens=listens,
        max_fd=max((file.fd for file in files), default=0),
    )
    return TargetFindings(_record(reader, status, smaps, belongings, options, host), blockers, tuple(notices))


def _refuse_untold(pid: int, reader: ProcReader) -> list[Blocker]:
    pidfd = pidfd_open(pid)
    try:
        return untold_sockets.refuse(pid, pidfd, reader)
    finally:
        os.close(pidfd)


def _without_memory(findings: TargetFindings) -> TargetFindings:
    """Of a process that has the memory of another one, where it counts."""
    record = replace(findings.record, memory_bytes=0, huge_pages=(), aio_requests=0, aio_ring_bytes=0)
    return replace(findings, record=record)


def merge_records(records: Sequence[TargetRecord]) -> TargetRecord:
    """What a whole tree needs; the first record is its root's. Pure."""
    files: dict[tuple[str, bool], FileNeed] = {}
    for need in (need for record in records for need in record.files):
        known = files.get((need.path, need.writable))
        used_as = tuple(dict.fromkeys((*known.used_as, *need.used_as))) if known else need.used_as
        files[need.path, need.writable] = replace(
            need, used_as=used_as[:USES_NAMED], locked=need.locked or (known is not None and known.locked)
        )
    limits: dict[int, tuple[int, int, int]] = {}
    for limit in (limit for record in records for limit in record.limits):
        limits[limit[0]] = max(limits.get(limit[0], limit), limit, key=lambda one: one[2])
    return replace(
        records[0],
        pids=tuple(sorted({pid for record in records for pid in record.pids})),
        files=tuple(files.values()),
        listens=tuple(dict.fromkeys(need for record in records for need in record.listens)),
        memory_bytes=sum(record.memory_bytes for record in records),
        user_ids=tuple(sorted({user for record in records for user in record.user_ids})),
        capabilities=reduce(or_, (record.capabilities for record in records)),
        capability_bounding=reduce(or_, (record.capability_bounding for record in records)),
        max_fd=max(record.max_fd for record in records),
        limits=tuple(limits.values()),
        huge_pages=add_huge_pages(record.huge_pages for record in records),
        aio_requests=sum(record.aio_requests for record in records),
        aio_ring_bytes=min((record.aio_ring_bytes for record in records if record.aio_ring_bytes), default=0),
        kernel_needs=tuple(dict.fromkeys(need for record in records for need in record.kernel_needs)),
    )


def _printable(blocker: Blocker) -> Blocker:
    """Without bytes of a name that no terminal and no message can take."""
    return replace(blocker, subject=printable(blocker.subject), reason=printable(blocker.reason))


def refuse_kernel(host: HostRecord) -> list[Blocker]:
    """What the source's kernel has to be able to do. Pure."""
    missing = [name for name in SOURCE_FEATURES if name not in host.features]
    hint = f"kernel {host.kernel}: see the README for what is needed"
    return [Blocker("kernel-lacks", host.hostname, f"the kernel here lacks {name}", hint) for name in missing]


def _not_named_yet(others: list[Blocker], refused: list[Blocker]) -> list[Blocker]:
    """One refusal per descriptor is enough."""
    named = {blocker.subject.rpartition("fd ")[2] for blocker in refused}
    return [blocker for blocker in others if blocker.subject.rpartition("fd ")[2] not in named]


def _own_tids(reader: ProcReader, pid: int) -> tuple[int, ...]:
    """What its threads call themselves, but for those that end meanwhile."""
    found = reader.contents([(pid, f"task/{tid}/status") for tid in reader.tids(pid)])
    there = [content_of(one) for one in found if not isinstance(one, ProcessLookupError)]
    return tuple(sorted(parse_brief(content).own_tid for content in there))


def _record(
    reader: ProcReader, status: Status, smaps: tuple[SmapsVma, ...], belongings: _Belongings,
    options: PreflightOptions, host: HostRecord,
) -> TargetRecord:  # fmt: skip
    pid = status.pid
    rings = aio.rings([one.vma for one in smaps])
    return TargetRecord(
        pids=_own_tids(reader, pid), name=reader.comm(status.tgid), files=belongings.files, listens=belongings.listens,
        memory_bytes=memory_bytes(status, smaps, reader.shared_out_bytes(pid)), xfeatures=host.xfeatures & ~AMX,
        kernel_needs=(*DESTINATION_FEATURES, *needs_of_memory(smaps)),
        user_ids=tuple(sorted({*status.uids, *status.gids})),
        capabilities=status.cap_prm | status.cap_inh | status.cap_amb, capability_bounding=status.cap_bnd,
        cgroup=reader.cgroup2(pid) or "", host=host, pid_mode=options.pid_mode, max_fd=belongings.max_fd,
        limits=tuple((limit.resource, limit.soft, limit.hard) for limit in reader.limits(pid)),
        huge_pages=private_huge_pages(one.vma for one in smaps), aio_requests=aio.count_requests(pid, rings),
        aio_ring_bytes=min((vma.size for vma in rings), default=0),
    )  # fmt: skip
