"""The destination's half of preflight: whether a target can live here. Pure; destination.py has looked."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker
from core.kernel.capabilities import capability_mask, capability_names
from core.kernel.posix_mqueue import refuse_queue
from core.kernel.xsave import Layout, component_names
from core.preflight.destination import Destination, Listener, is_same_file
from core.preflight.records import ASSUMED_SHARED, FileNeed, HostRecord, ListenNeed, TargetRecord
from core.preflight.socket_options import refuse_option
from core.proc.sockets import format_address
from core.proc.sysvipc import refuse_taken

DESTINATION_CAPABILITIES: Final = capability_mask(
    "SYS_PTRACE", "SYS_ADMIN", "DAC_OVERRIDE", "KILL", "SETUID", "SETGID", "SETPCAP"
)
SYS_RESOURCE: Final = capability_mask("SYS_RESOURCE")
MEMORY_SPARE: Final = 1.05
NAMED_AT_MOST: Final = 10
# Flags of /proc/cpuinfo that mean instructions a program may have chosen at its start.
INSTRUCTION_FLAGS: Final = frozenset({
    "pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "movbe", "aes", "pclmulqdq", "avx", "f16c", "fma", "avx2", "bmi1",
    "bmi2", "abm", "adx", "sha_ni", "erms", "fsrm", "rdrand", "rdseed", "fsgsbase", "rdpid", "clflushopt", "clwb",
    "cx16", "lahf_lm", "prefetchw", "vaes", "vpclmulqdq", "gfni", "avx512f", "avx512dq", "avx512bw", "avx512vl",
    "avx512cd", "avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq",
    "avx512_bf16", "avx512_fp16", "avx_vnni", "movdiri", "movdir64b", "serialize", "waitpkg", "rtm", "xsavec",
    "xsaveopt", "rdtscp", "ospke",
})  # fmt: skip
# Their files are the kernel's, one host's like another's.
KERNEL_FILESYSTEMS: Final = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs"})
LIMIT_NAMES: Final = (
    "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
    "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """No blockers: it can live here."""

    blockers: tuple[Blocker, ...]
    notices: tuple[str, ...]


def judge(target: TargetRecord, here: Destination) -> Verdict:
    """Every reason why `target` cannot live here."""
    host = here.host
    if host.is_same(target.host):  # whatever else is in the way follows from it
        hint = "name another host; for a copy here: migrate dump --leave-running, migrate restore --pid namespace"
        return Verdict((Blocker("same-host", host.hostname, "is this very host: the process runs here", hint),), ())
    boot_id = target.host.boot_id
    blockers = (
        *judge_rights(target, host),
        *judge_kernel(target, host),
        *judge_vdso(target, host),
        *judge_processor(target, host),
        *judge_pids(target, here),
        *judge_memory(target, host),
        *judge_huge_pages(target, host),
        *judge_aio(target, here),
        *judge_limits(target, host),
        *(blocker for need in target.files if (blocker := judge_file(need, here.files.get(need.path), host, boot_id))),
        *(blocker for need in target.listens if (blocker := judge_listen(need, here))),
        *(found for need in target.sysv if (found := refuse_taken(need, here.sysv.get(need.kind, ())))),
        *(refuse_queue(need, error) for need, error in here.queues),
        *(refuse_option(need, error, host.hostname) for need, error in here.options),
    )
    return Verdict(blockers, tuple(_notices(target, here)))


def judge_rights(target: TargetRecord, host: HostRecord) -> Iterator[Blocker]:
    """What we are over there."""
    missing = DESTINATION_CAPABILITIES & ~host.capabilities
    if missing:
        who = f"user {host.user_id}" if host.user_id else "root"
        reason = f"{who} lacks {', '.join(capability_names(missing))} over there"
        yield Blocker("rights-there", host.hostname, reason, "log in as root, or --remote-command 'sudo -n migrate'")
    elif unable := target.capabilities & ~host.capabilities:
        reason = f"the process has {', '.join(capability_names(unable))}, which root lacks over there"
        yield Blocker("capabilities", host.hostname, reason, "allow them to the service that the login comes through")
    if host.seccomp:
        hint = "log in outside of the container that sets it"
        yield Blocker("seccomp-there", host.hostname, "logins have a seccomp filter, which it would inherit", hint)
    if host.no_new_privs:
        hint = "log in without it (systemd: NoNewPrivileges=)"
        yield Blocker("no-new-privs-there", host.hostname, "logins have no_new_privs, which it would inherit", hint)


def judge_kernel(target: TargetRecord, host: HostRecord) -> Iterator[Blocker]:
    """Features that the restore needs."""
    for name in target.kernel_needs:
        if name == "la57" and name not in host.features:
            reason = "it has memory above the 47-bit line, for which there have to be five levels of page tables (la57)"
            yield Blocker("address-space", host.hostname, reason, "move it to a processor that has them")
        elif name not in host.features:
            hint = "`migrate features` over there says what there is, and what for"
            yield Blocker("kernel-lacks", host.hostname, f"kernel {host.kernel} over there lacks {name}", hint)


def judge_vdso(target: TargetRecord, host: HostRecord) -> Iterator[Blocker]:
    """Another vDSO is put behind the functions that the target's libc once found; there has to be one."""
    if target.host.vdso and not host.vdso:
        yield Blocker("vdso", host.hostname, f"kernel {host.kernel} gives its tasks no vDSO", "boot it without vdso=0")


def judge_processor(target: TargetRecord, host: HostRecord) -> Iterator[Blocker]:
    """Registers and instructions that the process may be using."""
    hint = "move it to a host with the same or a newer processor"
    missing = target.xfeatures & ~host.xfeatures
    if missing:
        names = component_names(missing)
        yield Blocker("cpu-registers", host.hostname, f"its processor lacks the registers of {names}", hint)
    if (lacking := _lacking(target, host)) and target.cpu_check == "ins":
        reason = f"its processor lacks {_some(lacking)}, which the process may have chosen at its start"
        sure = "; or --cpu-check fpu, if you know that it did not"
        yield Blocker("cpu-instructions", host.hostname, reason, hint + sure)


def _lacking(target: TargetRecord, host: HostRecord) -> list[str]:
    """Instructions that only the source has."""
    return sorted(INSTRUCTION_FLAGS & set(target.host.cpu_flags) - set(host.cpu_flags)) if host.cpu_flags else []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more


def judge_pids(target: TargetRecord, here: Destination) -> Iterator[Blocker]:
    """Its own PID and thread ids, which it keeps."""
    if target.pid_mode == "namespace":
        return
    taken = [f"{pid} ({here.holders[pid]})" for pid in target.pids if pid in here.holders]
    if taken:
        hint = "--pid namespace gives it a PID namespace of its own over there"
        yield Blocker("pid-taken", f"pid {_some(taken)}", f"is taken on {here.host.hostname}", hint)
    highest = max(target.pids, default=0)
    if here.host.pid_max and highest >= here.host.pid_max:
        reason = f"is beyond kernel.pid_max on {here.host.hostname}, {here.host.pid_max}"
        yield Blocker("pid-max", f"pid {highest}", reason, "raise kernel.pid_max there, or --pid namespace")


def judge_memory(target: TargetRecord, host: HostRecord) -> Iterator[Blocker]:
    """Room for all its pages at once, and a little more."""
    needed = int(target.memory_bytes * MEMORY_SPARE)
    if host.memory_available_bytes and needed > host.memory_available_bytes:
        reason = f"needs {needed >> 20} MiB, {host.memory_available_bytes >> 20} MiB are available"
        hint = "free memory there, or raise the memory limit of the login's cgroup"
        yield Blocker("memory", host.hostname, reason, hint)


def judge_huge_pages(target: TargetRecord, host: HostRecord) -> Iterator[Blocker]:
    """Room in the pools."""
    free = dict(host.huge_pages)
    for size, count in target.huge_pages:
        if count > free.get(size, 0):
            reason = f"needs {count} huge pages of {size >> 10} KiB, {free.get(size, 0)} are free"
            yield Blocker(
                "huge-pages", host.hostname, reason, "raise vm.nr_hugepages or vm.nr_overcommit_hugepages there"
            )


def judge_aio(target: TargetRecord, here: Destination) -> Iterator[Blocker]:
    """Contexts of asynchronous I/O: as many, and with rings as small as the target's."""
    if target.aio_requests > here.aio_free:
        reason = f"needs contexts of io_setup(2) for {target.aio_requests} requests, {here.aio_free} are left"
        yield Blocker("aio-requests", here.host.hostname, reason, "raise fs.aio-max-nr there")
    if target.aio_ring_bytes < here.aio_shortest:
        reason = f"has so many processors that a ring of io_setup(2) takes {here.aio_shortest >> 10} KiB at least, "
        reason += f"and the process has one of {target.aio_ring_bytes >> 10} KiB"
        yield Blocker("aio-ring", here.host.hostname, reason, "move it to a host with fewer processors")


def judge_limits(target: TargetRecord, host: HostRecord) -> Iterator[Blocker]:
    """Hard limits above ours there can be given only with CAP_SYS_RESOURCE."""
    if host.capabilities & SYS_RESOURCE:
        return
    hard_here = {resource: hard for resource, _soft, hard in host.limits}
    for resource, _soft, hard in target.limits:
        if hard > hard_here.get(resource, hard):
            name = f"RLIMIT_{LIMIT_NAMES[resource]}" if resource < len(LIMIT_NAMES) else f"limit {resource}"
            reason = f"its hard {name} is {hard}, and root there has {hard_here[resource]} without CAP_SYS_RESOURCE"
            yield Blocker("rlimit", host.hostname, reason, "raise it for logins (limits.conf, or the service of sshd)")


def judge_file(need: FileNeed, found: FileNeed | None, host: HostRecord, boot_id: str) -> Blocker | None:
    """Whether what `need.path` leads to over there is what the process has on the host of `boot_id`."""
    where = f"on {host.hostname}"
    if found is None:
        code = "device-missing" if need.device_number else "file-missing"
        sync = ", or say --sync-files missing" if need.is_sent(boot_id) else ""
        made = "make it there" if stat.S_ISDIR(need.mode) else "copy or install it there"
        hint = f"{made}, or mount its file system{sync}"
        return Blocker(code, need.subject, f"is missing {where}", hint)
    if stat.S_IFMT(found.mode) != stat.S_IFMT(need.mode):
        return Blocker("file-differs", need.subject, f"is of another type {where}", "put the same there")
    if need.device_number != (found.device_number if need.device_number else 0):
        return Blocker("device-differs", need.subject, f"is another device {where}", "make the same device node there")
    if need.locked and _is_shared(need, found):
        same = f"is locked, and the same file {where}: the copy cannot have the lock beside the original"
        return Blocker("file-lock", need.subject, same, "release the lock, or use migrate dump and restore")
    if not stat.S_ISREG(need.mode) or _is_shared(need, found) or need.filesystem in KERNEL_FILESYSTEMS:
        return None
    if need.writable:
        folder = need.path.rpartition("/")[0] or "/"
        hint = f"share the file system, or say --shared {folder} when both hosts have the same files there, "
        hint += "or remove the one there and say --sync-files missing"
        return Blocker("file-writes", need.subject, f"writes under {folder}, which is not the same {where}", hint)
    reason = _difference(need, found)
    if reason is None:
        return None
    copied = "copy it, or share its file system, or say --sync-files changed"  # not what others may run, too
    hint = "install the same version there" if need.mapped else copied
    return Blocker("file-differs", need.subject, f"{reason} {where}", hint)


def _difference(need: FileNeed, found: FileNeed) -> str | None:
    """What tells two regular files apart; None when they are as good as the same."""
    if need.size_bytes != found.size_bytes:
        return f"has {need.size_bytes} bytes here and {found.size_bytes}"
    if need.build_id:
        return None if need.build_id == found.build_id else "has another build id"
    if need.sha256:
        return None if need.sha256 == found.sha256 else "has other content"
    if need.mapped:
        return "cannot be compared with the one"
    return None if need.mtime_ns == found.mtime_ns else "has another modification time"


def judge_listen(need: ListenNeed, here: Destination) -> Blocker | None:
    """Address, port or path of a bound socket."""
    where = f"on {here.host.hostname}"
    if need.protocol == "unix":
        return _judge_unix(need, here, where)
    subject = f"{need.used_as} ({need.protocol[:3].upper()} {format_address((need.address, need.port))})"
    if need.address in here.absent_addresses and not need.foreign:
        hint = f"add {need.address} to an interface there, or let the program bind to 0.0.0.0"
        return Blocker("address-absent", subject, f"its address does not exist {where}", hint)
    for listener in here.listeners:
        if overlaps(need, listener):
            by = f" by {listener.holder}" if listener.holder else ""
            return Blocker("port-taken", subject, f"its port is taken {where}{by}", "stop what listens there")
    return None


def _judge_unix(need: ListenNeed, here: Destination, where: str) -> Blocker | None:
    subject = f"{need.used_as} (UNIX socket {need.path})"
    if need.path in here.unix_in_use:
        return Blocker("socket-path-taken", subject, f"its path is in use {where}", "stop what listens there")
    return None


def overlaps(need: ListenNeed, listener: Listener) -> bool:
    """Whether both cannot be bound at once. Of a listener on [::] we cannot tell if it is IPv6 only, so it is not."""
    held = listener.socket
    if (held.protocol[:3], held.local[1]) != (need.protocol[:3], need.port):
        return False
    needs_six, holds_six = need.protocol.endswith("6"), held.protocol.endswith("6")
    if needs_six == holds_six:
        wildcard = "::" if needs_six else "0.0.0.0"
        return need.address == held.local[0] or wildcard in (need.address, held.local[0])
    if needs_six:
        return need.address == "::" and not need.v6only
    return held.local[0] == "::"


def _notices(target: TargetRecord, here: Destination) -> Iterator[str]:
    host = here.host
    for need in target.files:
        found = here.files.get(need.path)
        if "cwd" in need.used_as and need.path != "/" and found is not None and not _is_shared(need, found):
            yield f"its working directory {need.path} is another directory on {host.hostname}: what it wrote stays here"
    narrower = target.capability_bounding & ~host.capability_bounding
    if narrower:
        names = _some(capability_names(narrower))
        yield f"the bounding set on {host.hostname} lacks {names}: programs it starts can never get them"
    if target.cpu_check == "fpu" and (lacking := _lacking(target, host)):
        yield f"{host.hostname}'s processor lacks {_some(lacking)}: if the process uses any, it ends there by SIGILL"
    if elsewhere := _elsewhere(target.host.xsave_layout, host.xsave_layout):
        kept = f"{host.hostname}'s processor keeps {component_names(elsewhere)} elsewhere in the frames of signals"
        yield f"{kept}: a thread that moves inside a signal handler returns from it with others"
    if 0 < host.monotonic_ns < target.host.monotonic_ns:
        yield f"{host.hostname} booted later than the source: a time namespace keeps its clocks from going back"


def _elsewhere(theirs: Layout, ours: Layout) -> int:
    """Components that both have, and not at the same place; nothing of hosts that do not say."""
    places = {component: offset for component, offset, _ in ours}
    return sum(1 << component for component, offset, _ in theirs if places.get(component, offset) != offset)


def _is_shared(need: FileNeed, found: FileNeed) -> bool:
    return need.filesystem_id == ASSUMED_SHARED or is_same_file(need, found)
