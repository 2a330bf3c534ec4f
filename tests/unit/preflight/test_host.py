"""What a host says of itself, and that asking changes nothing."""

import os
import socket
from pathlib import Path

import pytest

from core.kernel.capabilities import capability_mask, capability_names
from core.kernel.features import Features, probe_features
from core.preflight.host import collect_host, parse_cpu_flags, parse_memory_available
from core.proc.reader import ProcReader
from tests.requires import require_root


@pytest.fixture(scope="module")
def features() -> Features:
    return probe_features()


def test_probing_leaves_nothing_behind() -> None:
    reader = ProcReader()
    before = (reader.fds(os.getpid()), reader.children(os.getpid()), reader.cgroup2(os.getpid()))
    found = probe_features()
    assert (reader.fds(os.getpid()), reader.children(os.getpid()), reader.cgroup2(os.getpid())) == before
    if found.cgroup2_mount:
        own = Path(f"{found.cgroup2_mount}{reader.cgroup2(os.getpid())}")
        assert list(own.glob(f"migrate-probe-{os.getpid()}-*")) == []


def test_what_every_kernel_since_6_1_gives_root(features: Features) -> None:
    require_root()
    assert {"ptrace", "kcmp", "pidfd_getfd", "clone3_set_tid", "pr_set_mm_map"} <= set(features.names)
    assert features.is_root and features.cap_effective & capability_mask("SYS_PTRACE")


def test_every_processor_has_x87_and_sse(features: Features) -> None:
    assert features.xfeatures & 3 == 3


def test_no_new_privs_is_no_feature(features: Features) -> None:
    assert "no_new_privs" not in features.names


def test_capability_names_and_masks() -> None:
    assert capability_names(capability_mask("CHOWN", "CHECKPOINT_RESTORE")) == ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]
    assert capability_names(1 << 50) == ["50"]


def test_the_host_record_is_of_this_host() -> None:
    host = collect_host()
    assert host.hostname == socket.gethostname()
    assert host.boot_id and host.vdso and host.pid_max > 300
    assert 0 < host.memory_available_bytes < 1 << 50
    assert "sse2" in host.cpu_flags


def test_cpu_flags_are_those_of_every_processor() -> None:
    assert parse_cpu_flags("flags\t: b a c\nmodel: x\nflags\t: c b\n") == ("b", "c")
    assert parse_cpu_flags("") == ()


def test_memory_available_in_bytes() -> None:
    assert parse_memory_available("MemTotal: 9 kB\nMemAvailable:   12 kB\n") == 12288
    assert parse_memory_available("MemTotal: 9 kB\n") == 0
