"""The engine's preflight in the words of control.proto. Decides nothing; synchronous, call it in a thread."""

import stat
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from core import (
    FileChoices,
    FileNeed,
    HostRecord,
    ListenNeed,
    OptionNeed,
    PreflightOptions,
    QueueNeed,
    SysvNeed,
    TargetFindings,
    TargetRecord,
    collect_facts,
    collect_host,
    look,
)
from core import judge as judge_target
from migrate.messages import blocker_to_text
from migrate.pb import control_pb2 as pb

SECCOMP_MODES: Final = ("", "strict", "filter")


class ThisHost:
    """Preflight on the host it runs on. What the kernel can do is asked once; memory, PIDs and ports every time."""

    def __init__(self) -> None:
        self._host: HostRecord | None = None

    @property
    def host(self) -> HostRecord:
        """The record, as of the first question but for the clock."""
        if self._host is None:
            self._host = collect_host()
        return replace(self._host, monotonic_ns=time.monotonic_ns())

    def facts(self) -> pb.HostFacts:
        """For HelloAnswer."""
        return host_to_facts(self.host)

    def judge(self, target: pb.TargetFacts) -> pb.CheckAnswer:
        """The answer to Check, on the destination."""
        record = target_from_facts(target)
        verdict = judge_target(record, look(record, host=self.host))
        notices = [pb.Notice(text=text) for text in verdict.notices]
        named = {(blocker.code, blocker.subject) for blocker in verdict.blockers}
        return pb.CheckAnswer(
            blockers=map(blocker_to_text, verdict.blockers), notices=notices,
            missing=[need.path for need in record.files if ("file-missing", need.subject) in named],
            differing=[need.path for need in record.files if ("file-differs", need.subject) in named],
        )  # fmt: skip

    def examine(self, pid: int, options: PreflightOptions) -> TargetFindings:
        """What this side can tell of a process that is to leave; see target_to_facts."""
        return collect_facts(pid, options, host=self.host)


def file_choices(choices: FileChoices) -> pb.FileChoices:
    """As they travel to the keeper."""
    return pb.FileChoices(
        ext_unix_sk=choices.ext_unix_sk, file_locks=choices.file_locks, link_remap=choices.link_remap,
        ghost_limit=choices.ghost_limit, terminal=choices.terminal, carried=sorted(choices.carried),
    )  # fmt: skip


def host_to_facts(host: HostRecord) -> pb.HostFacts:
    """As it travels."""
    places = [pb.XsaveComponent(number=one, offset=offset, size=size) for one, offset, size in host.xsave_layout]
    return pb.HostFacts(
        hostname=host.hostname, kernel=host.kernel, boot_id=host.boot_id, machine_id=host.machine_id,
        xfeatures=host.xfeatures, xsave_layout=places, cpu_flags=host.cpu_flags,
        memory_available_bytes=host.memory_available_bytes, pid_max=host.pid_max, user_id=host.user_id,
        capabilities=host.capabilities, seccomp=SECCOMP_MODES[host.seccomp], no_new_privs=host.no_new_privs,
        cgroup2_mount=host.cgroup2_mount, cgroup2_writable=host.has_freezer, features=host.features,
        monotonic_ns=host.monotonic_ns, capability_bounding=host.capability_bounding, vdso=host.vdso,
        huge_pages=_huge_to(host.huge_pages), pid_namespace=host.pid_namespace,
    )  # fmt: skip


def host_from_facts(facts: pb.HostFacts) -> HostRecord:
    """As it came; its limits stay where they are."""
    places = tuple((one.number, one.offset, one.size) for one in facts.xsave_layout)
    return HostRecord(
        hostname=facts.hostname, kernel=facts.kernel, boot_id=facts.boot_id, machine_id=facts.machine_id,
        xfeatures=facts.xfeatures, xsave_layout=places, cpu_flags=tuple(facts.cpu_flags),
        memory_available_bytes=facts.memory_available_bytes, pid_max=facts.pid_max, user_id=facts.user_id,
        capabilities=facts.capabilities, capability_bounding=facts.capability_bounding,
        seccomp=SECCOMP_MODES.index(facts.seccomp) if facts.seccomp in SECCOMP_MODES else len(SECCOMP_MODES) - 1,
        no_new_privs=facts.no_new_privs, cgroup2_mount=facts.cgroup2_mount, features=tuple(facts.features),
        monotonic_ns=facts.monotonic_ns, vdso=facts.vdso,
        huge_pages=_huge_from(facts.huge_pages), pid_namespace=facts.pid_namespace,
    )  # fmt: skip


def _huge_to(pages: Iterable[tuple[int, int]]) -> list[pb.HugePages]:
    return [pb.HugePages(size_bytes=size, count=count) for size, count in pages]


def _huge_from(pages: Iterable[pb.HugePages]) -> tuple[tuple[int, int], ...]:
    return tuple((one.size_bytes, one.count) for one in pages)


def target_to_facts(target: TargetRecord) -> pb.TargetFacts:
    """As it travels."""
    limits = [pb.LimitNeed(resource=number, soft=soft, hard=hard) for number, soft, hard in target.limits]
    return pb.TargetFacts(
        pids=target.pids, name=target.name, files=map(_file_to_need, target.files),
        listens=map(_listen_to_need, target.listens), memory_bytes=target.memory_bytes,
        xfeatures_in_use=target.xfeatures, kernel_needs=target.kernel_needs, user_ids=target.user_ids,
        capabilities=target.capabilities, capability_bounding=target.capability_bounding, cgroup=target.cgroup,
        host_machine_id=target.host.machine_id, host=host_to_facts(target.host), pid_mode=target.pid_mode,
        cpu_check=target.cpu_check, max_fd=target.max_fd, limits=limits,
        sysv=[pb.SysvNeed(key=one.key, id=one.id, kind=one.kind) for one in target.sysv],
        queues=[pb.QueueNeed(**one._asdict()) for one in target.queues],
        huge_pages=_huge_to(target.huge_pages), aio_requests=target.aio_requests,
        aio_ring_bytes=target.aio_ring_bytes, options=[pb.OptionNeed(**one._asdict()) for one in target.options],
    )  # fmt: skip


def target_from_facts(facts: pb.TargetFacts) -> TargetRecord:
    """As it came."""
    return TargetRecord(
        pids=tuple(facts.pids), name=facts.name, files=tuple(map(_file_from_need, facts.files)),
        listens=tuple(map(_listen_from_need, facts.listens)), memory_bytes=facts.memory_bytes,
        xfeatures=facts.xfeatures_in_use, kernel_needs=tuple(facts.kernel_needs), user_ids=tuple(facts.user_ids),
        capabilities=facts.capabilities, capability_bounding=facts.capability_bounding, cgroup=facts.cgroup,
        host=host_from_facts(facts.host), pid_mode="namespace" if facts.pid_mode == "namespace" else "keep",
        cpu_check="fpu" if facts.cpu_check == "fpu" else "ins", max_fd=facts.max_fd,
        limits=tuple((one.resource, one.soft, one.hard) for one in facts.limits),
        sysv=tuple(SysvNeed(one.key, one.id, one.kind or "shm") for one in facts.sysv),
        queues=tuple(QueueNeed(one.name, one.max_messages, one.message_size, one.unlinked) for one in facts.queues),
        huge_pages=_huge_from(facts.huge_pages), aio_requests=facts.aio_requests, aio_ring_bytes=facts.aio_ring_bytes,
        options=tuple(
            OptionNeed(one.domain, one.type, one.protocol, one.level, one.option, one.value, one.interface, one.used_as)
            for one in facts.options
        ),
    )  # fmt: skip


def _file_to_need(need: FileNeed) -> pb.FileNeed:
    return pb.FileNeed(
        path=need.path, size_bytes=need.size_bytes, mode=need.mode, mtime_ns=need.mtime_ns, build_id=need.build_id,
        sha256=need.sha256, writable=need.writable, mapped=need.mapped, directory=stat.S_ISDIR(need.mode),
        device=bool(need.device_number), device_number=need.device_number, filesystem=need.filesystem,
        inode=need.inode, filesystem_id=need.filesystem_id, used_as=need.used_as, locked=need.locked,
    )  # fmt: skip


def _file_from_need(need: pb.FileNeed) -> FileNeed:
    return FileNeed(
        path=need.path, mode=need.mode, size_bytes=need.size_bytes, mtime_ns=need.mtime_ns, build_id=need.build_id,
        sha256=need.sha256, writable=need.writable, mapped=need.mapped, device_number=need.device_number,
        filesystem=need.filesystem, filesystem_id=need.filesystem_id, inode=need.inode, used_as=tuple(need.used_as),
        locked=need.locked,
    )  # fmt: skip


def _listen_to_need(need: ListenNeed) -> pb.ListenNeed:
    return pb.ListenNeed(
        protocol=need.protocol, address=need.address, port=need.port, path=need.path, v6only=need.v6only,
        used_as=need.used_as, foreign=need.foreign,
    )  # fmt: skip


def _listen_from_need(need: pb.ListenNeed) -> ListenNeed:
    return ListenNeed(need.protocol, need.address, need.port, need.path, need.v6only, need.used_as, need.foreign)
