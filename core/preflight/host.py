"""This host as the other side needs to know it. Asks the kernel by doing (core.kernel.features); changes nothing."""

import os
import platform
import time
from typing import Final

from core.errors import KernelLacks
from core.kernel.features import Features, probe_features
from core.kernel.hugetlb import free_pages
from core.kernel.xsave import layout
from core.preflight.records import HostRecord
from core.proc.reader import ProcReader
from core.vdso.layout import read_vdso_layout

CGROUP_UNLIMITED: Final = "max"


def collect_host(reader: ProcReader | None = None) -> HostRecord:
    """Facts of this host and of ourselves."""
    reader = reader or ProcReader()
    features = probe_features(reader)
    return HostRecord(
        hostname=platform.node(), kernel=platform.release(), boot_id=_line("/proc/sys/kernel/random/boot_id"),
        machine_id=_line("/etc/machine-id"), xfeatures=features.xfeatures, xsave_layout=layout(),
        cpu_flags=parse_cpu_flags(_text("/proc/cpuinfo")),
        memory_available_bytes=_memory_available(reader, features), pid_max=int(_line("/proc/sys/kernel/pid_max") or 0),
        user_id=features.user_id, capabilities=features.cap_effective, capability_bounding=features.cap_bounding,
        seccomp=features.seccomp, no_new_privs=features.no_new_privs, cgroup2_mount=features.cgroup2_mount,
        features=features.names, monotonic_ns=time.monotonic_ns(), vdso=_vdso(),
        limits=tuple((limit.resource, limit.soft, limit.hard) for limit in reader.limits(os.getpid())),
        pid_namespace=reader.namespace(os.getpid(), "pid"),
        huge_pages=tuple(free_pages(parse_memory_available(_text("/proc/meminfo"))).items()),
    )  # fmt: skip


def _vdso() -> str:
    """Fingerprint of our own vDSO, which is every 64-bit task's; "" on a kernel without."""
    try:
        return read_vdso_layout().fingerprint
    except KernelLacks:
        return ""


def _text(path: str) -> str:
    """Content, or nothing where a container hides the file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _line(path: str) -> str:
    return _text(path).strip()


def parse_cpu_flags(cpuinfo: str) -> tuple[str, ...]:
    """Flags that every processor in /proc/cpuinfo has, sorted."""
    lines = [line.partition(":")[2].split() for line in cpuinfo.split("\n") if line.startswith("flags")]
    return tuple(sorted(set(lines[0]).intersection(*lines[1:]))) if lines else ()


def parse_memory_available(meminfo: str) -> int:
    """Bytes of MemAvailable, 0 when the kernel does not tell."""
    for line in meminfo.split("\n"):
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def _memory_available(reader: ProcReader, features: Features) -> int:
    """The least of what the machine and each of our cgroups have left."""
    left = [parse_memory_available(_text("/proc/meminfo"))]
    path = reader.cgroup2(os.getpid()) if features.cgroup2_mount else None
    while path:
        folder = f"{features.cgroup2_mount}{path}".rstrip("/")
        limit, used = _line(f"{folder}/memory.max"), _line(f"{folder}/memory.current")
        if limit and limit != CGROUP_UNLIMITED and used:
            left.append(max(0, int(limit) - int(used)))
        path = path.rpartition("/")[0]
    return min(left)
