"""The destination's verdicts, by value: one reason at a time."""

import stat
from collections.abc import Callable
from dataclasses import replace

import pytest

from core.errors import Blocker
from core.kernel.capabilities import capability_mask
from core.preflight.destination import Destination, Listener
from core.preflight.host import collect_host
from core.preflight.judge import judge, judge_file, judge_listen, overlaps
from core.preflight.records import ASSUMED_SHARED, FileNeed, HostRecord, ListenNeed, TargetRecord
from core.proc.sockets import InetSocket
from core.proc.sysvipc import SysvNeed, SysvSegment
from migrate.preflight import host_from_facts, host_to_facts

EVERYTHING = (1 << 41) - 1
HOST = HostRecord(
    hostname="host-b", kernel="6.18", vdso="aa", xfeatures=0xE7, cpu_flags=("avx2", "avx512f"),
    memory_available_bytes=1 << 30, pid_max=32768, capabilities=EVERYTHING, capability_bounding=EVERYTHING,
    features=("clone3_set_tid", "cgroup2_freezer", "la57"), limits=((7, 1024, 4096),),
    huge_pages=((2 << 20, 3), (1 << 30, 0)),
)  # fmt: skip
TARGET = TargetRecord(
    pids=(812, 813), name="redis", memory_bytes=1 << 20, xfeatures=0xE7, host=replace(HOST, hostname="host-a"),
    kernel_needs=("clone3_set_tid", "cgroup2_freezer", "la57"), capabilities=0x400, capability_bounding=EVERYTHING,
    limits=((7, 1024, 4096),), huge_pages=((2 << 20, 3),),
)  # fmt: skip
LIBRARY = FileNeed(
    "/usr/lib/x.so", stat.S_IFREG | 0o644, 5, 7, build_id="ab", mapped=True, filesystem_id="boot 1", inode=3,
    used_as=("mapped",),
)  # fmt: skip
OTHER_PLACE = {"filesystem_id": "boot 2", "inode": 4}


def codes(target: TargetRecord, here: Destination) -> list[str]:
    verdict = judge(target, here)
    assert all(blocker.hint for blocker in verdict.blockers)
    return [blocker.code for blocker in verdict.blockers]


@pytest.mark.parametrize(
    ("there", "found"),
    [(("boot", 5), ["same-host"]), (("boot", 6), []), (("other boot", 5), []), (("boot", 0), []), (("", 5), [])],
)
def test_this_very_host_is_refused_and_a_container_of_the_same_machine_is_not(
    there: tuple[str, int], found: list[str]
) -> None:
    target = replace(TARGET, host=replace(HOST, boot_id="boot", pid_namespace=5))
    host = replace(HOST, boot_id=there[0], pid_namespace=there[1])
    assert codes(target, Destination(host, aio_free=1)) == found


def test_a_host_that_is_asked_about_itself_knows_itself() -> None:
    told = host_from_facts(host_to_facts(collect_host()))
    assert told.is_same(collect_host())


@pytest.mark.parametrize(("key", "id"), [(7, 99), (0, 40), (0, 40 + 3 * 32768), (0x4D, 99), (0, 99)])
def test_what_is_of_system_v_needs_its_key_and_the_index_in_its_id(key: int, id: int) -> None:
    """There are 40 with key 7, and 41 with none: IPC_PRIVATE is in nobody's way."""
    there = [SysvSegment(7, 40, 0o600, 1, 2, 3, 0, 0, 0, 0, 0), SysvSegment(0, 41, 0o600, 1, 2, 3, 0, 0, 0, 0, 0)]
    for kind in ("shm", "msg", "sem"):
        found = codes(replace(TARGET, sysv=(SysvNeed(key, id, kind),)), Destination(HOST, sysv={kind: there}))
        assert found == ([f"{kind}-taken"] if key == 7 or id % 32768 == 40 else [])
    assert not codes(replace(TARGET, sysv=(SysvNeed(key, id, "msg"),)), Destination(HOST, sysv={"shm": there}))


@pytest.mark.parametrize(
    ("free", "shortest", "found"),
    [(62, 4096, []), (61, 4096, ["aio-requests"]), (62, 8192, ["aio-ring"]), (0, 0, ["aio-requests"])],
)
def test_contexts_of_asynchronous_io_need_room_and_rings_as_small(free: int, shortest: int, found: list[str]) -> None:
    target = replace(TARGET, aio_requests=62, aio_ring_bytes=4096)
    assert codes(target, Destination(HOST, aio_free=free, aio_shortest=shortest)) == found


def test_a_host_that_has_all_has_nothing_against_it() -> None:
    verdict = judge(TARGET, Destination(HOST))
    assert (verdict.blockers, verdict.notices) == ((), ())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"capabilities": 0, "user_id": 1000}, "rights-there"),
        ({"capabilities": EVERYTHING & ~0x400}, "capabilities"),
        ({"seccomp": 2}, "seccomp-there"),
        ({"no_new_privs": True}, "no-new-privs-there"),
        ({"features": ("clone3_set_tid", "la57")}, "kernel-lacks"),
        ({"vdso": ""}, "vdso"),
        ({"xfeatures": 0x7}, "cpu-registers"),
        ({"cpu_flags": ("avx2",)}, "cpu-instructions"),
        ({"memory_available_bytes": 1 << 20}, "memory"),
        ({"pid_max": 813}, "pid-max"),
        ({"huge_pages": ((2 << 20, 2), (1 << 30, 3))}, "huge-pages"),
        ({"huge_pages": ()}, "huge-pages"),
        ({"features": ("clone3_set_tid", "cgroup2_freezer")}, "address-space"),
    ],
)
def test_what_a_host_lacks_is_one_blocker(change: dict[str, object], code: str) -> None:
    lacking: Callable[..., HostRecord] = replace
    assert codes(TARGET, Destination(lacking(HOST, **change))) == [code]


def test_instructions_may_be_left_out_of_the_check_registers_may_not() -> None:
    daring = replace(TARGET, cpu_check="fpu")
    fewer = Destination(replace(HOST, cpu_flags=("avx2",)))
    verdict = judge(daring, fewer)
    assert verdict.blockers == ()
    assert any("lacks avx512f" in notice and "SIGILL" in notice for notice in verdict.notices)
    assert "--cpu-check fpu" in (judge(TARGET, fewer).blockers[0].hint or "")
    assert codes(daring, Destination(replace(HOST, xfeatures=0x7))) == ["cpu-registers"]


def test_frames_of_signals_that_are_laid_out_otherwise_are_told() -> None:
    """AVX where it is everywhere, PKU where AMD has it."""
    source = replace(TARGET, host=replace(TARGET.host, xsave_layout=((2, 576, 256), (9, 2688, 8))))
    alike = judge(source, Destination(replace(HOST, xsave_layout=((2, 576, 256), (5, 832, 64), (9, 2688, 8)))))
    other = judge(source, Destination(replace(HOST, xsave_layout=((2, 576, 256), (9, 832, 8)))))
    assert alike.notices == judge(TARGET, Destination(HOST)).notices
    [notice] = set(other.notices) - set(alike.notices)
    assert "keeps PKU elsewhere" in notice and "signal handler" in notice


def test_a_limit_above_theirs_needs_a_capability() -> None:
    wanting = replace(TARGET, limits=((7, 1024, 1 << 20),))
    without = replace(HOST, capabilities=EVERYTHING & ~capability_mask("SYS_RESOURCE"))
    assert codes(wanting, Destination(HOST)) == []
    (blocker,) = judge(wanting, Destination(without)).blockers
    assert blocker.code == "rlimit" and "RLIMIT_NOFILE" in blocker.reason


def test_a_narrower_bounding_set_is_told() -> None:
    narrow = replace(HOST, capability_bounding=EVERYTHING & ~capability_mask("SYS_BOOT"))
    verdict = judge(TARGET, Destination(narrow))
    assert verdict.blockers == () and "CAP_SYS_BOOT" in verdict.notices[0]


def test_a_pid_that_is_taken_names_its_holder_and_the_way_out() -> None:
    taken = Destination(HOST, holders={813: "cron"})
    (blocker,) = judge(TARGET, taken).blockers
    assert (blocker.code, blocker.subject) == ("pid-taken", "pid 813 (cron)")
    assert "--pid namespace" in (blocker.hint or "")
    assert codes(replace(TARGET, pid_mode="namespace"), taken) == []


def verdict_on(need: FileNeed, found: FileNeed | None) -> Blocker | None:
    return judge_file(need, found, HOST, "boot")


def code_of(need: FileNeed, found: FileNeed | None) -> str:
    blocker = verdict_on(need, found)
    return blocker.code if blocker else ""


def elsewhere(need: FileNeed, **change: object) -> FileNeed:
    changed: Callable[..., FileNeed] = replace
    return changed(need, **{**OTHER_PLACE, **change})


def test_files_missing_or_of_another_type() -> None:
    assert code_of(LIBRARY, None) == "file-missing"
    assert code_of(LIBRARY, elsewhere(LIBRARY, mode=stat.S_IFDIR | 0o755)) == "file-differs"
    device = FileNeed("/dev/null", stat.S_IFCHR | 0o666, device_number=259)
    assert code_of(device, None) == "device-missing"
    assert code_of(device, elsewhere(device, device_number=261)) == "device-differs"
    assert code_of(device, elsewhere(device)) == ""


def test_a_mapped_file_is_the_same_by_size_and_build_id_whatever_its_time() -> None:
    assert code_of(LIBRARY, elsewhere(LIBRARY, mtime_ns=99)) == ""
    assert code_of(LIBRARY, elsewhere(LIBRARY, size_bytes=6)) == "file-differs"
    assert code_of(LIBRARY, elsewhere(LIBRARY, build_id="cd")) == "file-differs"


def test_a_mapped_file_without_build_id_is_the_same_by_hash() -> None:
    need = replace(LIBRARY, build_id="", sha256=b"1")
    assert code_of(need, elsewhere(need)) == ""
    assert code_of(need, elsewhere(need, sha256=b"2")) == "file-differs"
    assert code_of(replace(need, sha256=b""), elsewhere(need)) == "file-differs"


def test_a_file_only_read_is_the_same_by_hash_or_by_time() -> None:
    big = FileNeed("/srv/big", stat.S_IFREG | 0o644, 5, 7, filesystem_id="boot 1", inode=3)
    assert code_of(big, elsewhere(big)) == ""
    assert code_of(big, elsewhere(big, mtime_ns=8)) == "file-differs"
    hashed = replace(big, sha256=b"1")
    assert code_of(hashed, elsewhere(hashed, mtime_ns=8)) == ""


def test_writes_elsewhere_are_refused_naming_the_directory() -> None:
    log = FileNeed("/var/lib/x/log", stat.S_IFREG | 0o644, 5, writable=True, filesystem_id="boot 1", inode=3)
    blocker = verdict_on(log, elsewhere(log))
    assert blocker is not None and blocker.code == "file-writes"
    assert "writes under /var/lib/x" in blocker.reason and "--shared /var/lib/x" in (blocker.hint or "")


def test_files_written_to_on_the_network_are_not_offered_to_be_sent() -> None:
    log = FileNeed("/net/log", stat.S_IFREG | 0o644, 5, writable=True, filesystem_id="boot 1")
    own, network = verdict_on(log, None), verdict_on(replace(log, filesystem_id="nfs4 h:/x"), None)
    assert own is not None and "--sync-files missing" in (own.hint or "")
    assert network is not None and "sync-files" not in (network.hint or "")


def test_writes_to_the_very_same_file_or_one_said_to_be_are_fine() -> None:
    log = FileNeed("/var/lib/x/log", stat.S_IFREG | 0o644, 5, writable=True, filesystem_id="nfs4 h:/x", inode=3)
    assert code_of(log, replace(log, size_bytes=9)) == ""
    assumed = replace(log, filesystem_id=ASSUMED_SHARED)
    assert code_of(assumed, elsewhere(assumed, size_bytes=9)) == ""
    assert code_of(assumed, None) == "file-missing"


def test_files_of_the_kernel_need_only_be_there() -> None:
    need = FileNeed("/proc/meminfo", stat.S_IFREG | 0o444, sha256=b"1", filesystem="proc")
    assert code_of(need, elsewhere(need, sha256=b"2")) == ""


def test_another_working_directory_is_told() -> None:
    cwd = FileNeed("/var/lib/x", stat.S_IFDIR | 0o755, filesystem_id="boot 1", inode=3, used_as=("cwd",))
    target = replace(TARGET, files=(cwd,))
    verdict = judge(target, Destination(HOST, files={cwd.path: elsewhere(cwd)}))
    assert verdict.blockers == () and "working directory /var/lib/x" in verdict.notices[0]
    assert judge(target, Destination(HOST, files={cwd.path: cwd})).notices == ()


def held(protocol: str, address: str, port: int = 80) -> Listener:
    return Listener(InetSocket(protocol, 1, 10, (address, port), ("0.0.0.0", 0)), "nginx (pid 9)")


@pytest.mark.parametrize(
    ("need", "listener", "expected"),
    [
        (ListenNeed("tcp", "10.0.0.1", 80), held("tcp", "10.0.0.1"), True),
        (ListenNeed("tcp", "10.0.0.1", 80), held("tcp", "10.0.0.2"), False),
        (ListenNeed("tcp", "10.0.0.1", 80), held("tcp", "0.0.0.0"), True),
        (ListenNeed("tcp", "0.0.0.0", 80), held("tcp", "10.0.0.2"), True),
        (ListenNeed("tcp", "0.0.0.0", 80), held("tcp", "0.0.0.0", 81), False),
        (ListenNeed("tcp", "0.0.0.0", 80), held("udp", "0.0.0.0"), False),
        (ListenNeed("tcp", "0.0.0.0", 80), held("tcp6", "::"), True),
        (ListenNeed("tcp6", "::", 80), held("tcp", "10.0.0.1"), True),
        (ListenNeed("tcp6", "::", 80, v6only=True), held("tcp", "10.0.0.1"), False),
        (ListenNeed("tcp6", "::1", 80), held("tcp", "0.0.0.0"), False),
        (ListenNeed("udp6", "::1", 80), held("udp6", "::"), True),
    ],
)
def test_ports_overlap_as_bind_sees_it(need: ListenNeed, listener: Listener, expected: bool) -> None:
    assert overlaps(need, listener) is expected


def test_a_taken_port_names_its_holder() -> None:
    need = ListenNeed("tcp", "0.0.0.0", 80, used_as="fd 6")
    blocker = judge_listen(need, Destination(HOST, listeners=(held("tcp", "0.0.0.0"),)))
    assert blocker is not None
    assert (blocker.code, blocker.subject) == ("port-taken", "fd 6 (TCP 0.0.0.0:80)")
    assert "by nginx (pid 9)" in blocker.reason


def test_an_address_that_does_not_exist_there() -> None:
    need = ListenNeed("tcp", "10.0.0.1", 80, used_as="fd 6")
    here = Destination(HOST, absent_addresses=frozenset({"10.0.0.1"}))
    assert judge_listen(replace(need, foreign=True), here) is None
    blocker = judge_listen(need, here)
    assert blocker is not None and blocker.code == "address-absent"


def test_unix_sockets_need_a_free_name() -> None:
    need = ListenNeed("unix", path="/run/x/s", used_as="fd 6")
    taken = judge_listen(need, Destination(HOST, unix_in_use=frozenset({"/run/x/s"})))
    assert taken is not None and taken.code == "socket-path-taken"
    assert judge_listen(need, Destination(HOST)) is None


def test_an_empty_record_of_a_hopeless_target_judges_only_the_login() -> None:
    assert codes(TargetRecord(), Destination(HOST)) == []


def test_a_lock_on_a_file_that_both_hosts_share_is_refused() -> None:
    lock = FileNeed("/srv/lock", stat.S_IFREG | 0o644, locked=True, filesystem_id="nfs4 h:/x", inode=3)
    assert code_of(lock, replace(lock, locked=False)) == "file-lock"
    assert code_of(replace(lock, filesystem_id="boot 1"), replace(lock, filesystem_id="boot 2", locked=False)) == ""
