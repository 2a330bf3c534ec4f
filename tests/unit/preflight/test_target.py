"""Every refusal and notice of the source's half, against real processes where one is cheap."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import Blocker
from core.kernel.calls import syscall
from core.preflight import HostRecord, PreflightOptions, TargetFindings, collect_facts, collect_host
from core.preflight.memory import (
    decide_tracker,
    needs_of_memory,
    notice_tracker,
    notice_tracking,
    refuse_memory,
    refuse_tracker,
)
from core.preflight.process import refuse_namespaces
from core.preflight.records import TargetRecord
from core.preflight.target import refuse_kernel, without_passing
from core.proc.maps import SmapsVma, Vma
from core.proc.reader import ProcReader
from tests.requires import require, require_program, require_root
from tests.unit.preflight.targets import python, running
from tests.waiting import wait_until

PLAIN = PreflightOptions()
IPC_RMID = 0
Examine = Callable[..., TargetFindings]


@pytest.fixture(scope="module")
def host() -> HostRecord:
    require_root()
    return collect_host()


@pytest.fixture
def examine(host: HostRecord) -> Examine:
    return lambda pid, options=PLAIN: collect_facts(pid, options, host=host)


def codes(findings: TargetFindings) -> set[str]:
    return {blocker.code for blocker in findings.blockers}


def the(findings: TargetFindings, code: str) -> Blocker:
    (found,) = [blocker for blocker in findings.blockers if blocker.code == code]
    assert found.hint
    return found


def test_a_plain_process_has_nothing_against_it(examine: Examine) -> None:
    with running("/bin/sleep", "100", name="sleep") as pid:
        findings = examine(pid)
        assert findings.blockers == ()
        assert findings.notices == ()
        assert (findings.record.pids, findings.record.name) == ((pid,), "sleep")
        exe = next(need for need in findings.record.files if "exe" in need.used_as)
        assert exe.path == os.path.realpath("/bin/sleep")
        assert exe.mapped and (exe.build_id or exe.sha256)
        assert any("libc" in need.path for need in findings.record.files)


def test_looking_leaves_no_trace(examine: Examine) -> None:
    reader = ProcReader()
    with running("/bin/sleep", "100", name="sleep") as pid:
        ours, its = reader.fds(os.getpid()), reader.fds(pid)
        examine(pid)
        assert (reader.fds(os.getpid()), reader.fds(pid)) == (ours, its)
        status = reader.status(pid)
        assert (status.state, status.tracer_pid) == ("S", 0)


def test_a_pid_that_does_not_exist(examine: Examine) -> None:
    findings = examine(1 << 22)
    assert the(findings, "no-process").subject == f"pid {1 << 22}"
    assert findings.record.pids == ()


def test_a_kernel_thread(examine: Examine) -> None:
    reader = ProcReader()
    found = next((pid for pid in reader.pids() if reader.stat(pid).is_kernel_thread), 0)
    require(found > 0, "a kernel thread in this PID namespace")
    assert codes(examine(found)) == {"kernel-thread"}


def test_a_zombie(examine: Examine) -> None:
    child = subprocess.Popen(["/bin/true"])
    try:
        wait_until(lambda: ProcReader().status(child.pid).state == "Z", "the child to end")
        assert f"its parent {os.getpid()}" in (the(examine(child.pid), "zombie").hint or "")
    finally:
        child.wait()


def test_ourselves_and_those_who_run_us(examine: Examine) -> None:
    assert codes(examine(os.getpid())) == {"ourselves"}
    if os.getppid() not in (0, 1):
        assert "which runs this program" in the(examine(os.getppid()), "ancestor").reason


def test_a_thread_is_not_a_process(examine: Examine) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert the(examine(thread.native_id), "thread").hint == f"give {os.getpid()}"
    finally:
        stop.set()
        thread.join()


def test_a_process_that_is_traced_names_the_tracer(examine: Examine, tmp_path: Path) -> None:
    with running("/bin/sleep", "100", name="sleep") as pid:
        seize = f"assert libc.ptrace(0x4206, {pid}, None, None) == 0"
        with python(seize, tmp_path) as tracer:
            assert f"(pid {tracer})" in the(examine(pid), "traced").reason


def test_a_stopped_process_goes(examine: Examine) -> None:
    with running("/bin/sleep", "100", name="sleep") as pid:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: ProcReader().status(pid).state == "T", "the process to stop")
        assert not codes(examine(pid))


def test_children_go_along(examine: Examine) -> None:
    with running("/bin/sh", "-c", "/bin/sleep 100; true", name="sh") as pid:
        (child,) = wait_until(lambda: ProcReader().children(pid), "the child")
        try:
            wait_until(lambda: ProcReader().comm(child) == "sleep", "the child to exec")
            found = examine(pid)
            assert found.record.pids == (pid, child)
            assert any("sleep" in need.path for need in found.record.files)
        finally:
            os.kill(child, signal.SIGKILL)


def test_other_namespaces_are_named_one_by_one(examine: Examine) -> None:
    unshare = require_program("unshare")
    with running(unshare, "--uts", "--net", "/bin/sleep", "100", name="sleep") as pid:
        findings = examine(pid)
        reasons = {blocker.reason for blocker in findings.blockers if blocker.code == "namespace"}
        assert reasons == {"is in another uts namespace", "is in another net namespace"}


def test_a_namespace_made_for_children_counts() -> None:
    ours = {"pid": 1, "pid_for_children": 1}
    (blocker,) = refuse_namespaces(7, ours | {"pid_for_children": 0}, ours)
    assert "of its children" in blocker.reason


def test_a_seccomp_filter_goes(examine: Examine, tmp_path: Path) -> None:
    allow_all = (
        "program = (ctypes.c_ulonglong * 1)(0x7fff0000 << 32 | 6)\n"
        "fprog = (ctypes.c_ulonglong * 2)(1, ctypes.addressof(program))\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0\n"
        "assert libc.prctl(22, 2, ctypes.byref(fprog)) == 0"
    )
    with python(allow_all, tmp_path) as pid:
        assert not codes(examine(pid))


def test_posix_timers_go(examine: Examine, tmp_path: Path) -> None:
    with python("id = ctypes.c_int(); assert libc.timer_create(0, None, ctypes.byref(id)) == 0", tmp_path) as pid:
        assert not codes(examine(pid))


def test_a_system_v_segment_that_somebody_else_has_attached(examine: Examine, tmp_path: Path) -> None:
    script = "libc.shmat.restype = ctypes.c_void_p\nid = libc.shmget(0, 4096, 0o600)\nlibc.shmat(id, None, 0)\n"
    script += f"open({str(tmp_path / 'id')!r}, 'w').write(str(id))"
    with python(script, tmp_path) as pid:
        id = int((tmp_path / "id").read_text())
        address = syscall("shmat", id, 0, 0)
        syscall("shmctl", id, IPC_RMID, 0)
        try:
            assert str(os.getpid()) in the(examine(pid), "shm-attached").reason
        finally:
            syscall("shmdt", address)
        assert "shm-attached" not in codes(examine(pid))


def test_another_root_directory(examine: Examine, tmp_path: Path) -> None:
    script = f"os.mkdir({str(tmp_path / 'root')!r}); os.close(os.open({str(tmp_path / 'ready')!r}, os.O_CREAT))\n"
    script += f"os.chroot({str(tmp_path / 'root')!r}); signal.pause()"
    with python(script, tmp_path) as pid:
        wait_until(lambda: ProcReader().root(pid) != "/", "the chroot")
        assert the(examine(pid), "chroot").reason.startswith(f"has {tmp_path}/root")


@pytest.mark.parametrize(("flag", "what"), [(0x400, "descriptor table"), (0x200, "working directory and umask")])
def test_what_is_shared_within_the_tree_moves_and_with_an_outsider_is_named(
    flag: int, what: str, examine: Examine, tmp_path: Path
) -> None:
    script = f"if libc.syscall(56, {flag} | 17, 0, 0, 0, 0) == 0:\n    while True: signal.pause()"
    with python(script, tmp_path) as pid:
        (child,) = ProcReader().children(pid)
        try:
            assert "shared-task" not in codes(examine(pid))
            assert f"{what} with process {pid}" in the(examine(child), "shared-task").reason
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("flag", "code", "reason"),
    [
        (0x400, "thread-parted", "has a descriptor table of its own (unshare)"),
        (0x200, "thread-parted", "has a working directory and umask of its own (unshare)"),
        (0x40000000, "namespace", "is in another net namespace"),
        (0x04000000, "namespace", "is in another uts namespace"),
    ],
)
def test_a_thread_that_has_parted_from_the_others(
    flag: int, code: str, reason: str, examine: Examine, tmp_path: Path
) -> None:
    script = "import threading\ngo, there = threading.Event(), threading.Event()\n"
    script += f"run = lambda: (go.wait(), libc.unshare({flag}), there.set(), signal.pause())\n"
    script += "threading.Thread(target=run, daemon=True).start(); go.set(); there.wait()"
    with python(script, tmp_path) as pid:
        (tid,) = set(ProcReader().tids(pid)) - {pid}
        assert the(examine(pid), code).reason == f"its thread {tid} {reason}"


CHURN = """
import select, socket, threading
def churn():
    watch = select.epoll()
    while True:
        ends = socket.socketpair()
        for end in ends: watch.register(end, 1)
        for end in ends: end.close()
threading.Thread(target=churn, daemon=True).start()"""


def test_a_server_that_opens_watches_and_closes_all_the_time_is_not_refused(examine: Examine, tmp_path: Path) -> None:
    with python(CHURN, tmp_path) as pid:
        assert [examine(pid).blockers for _ in range(40)] == [()] * 40


THREADS = """
import threading
def churn():
    while True:
        thread = threading.Timer(0.0002, int)
        thread.start()
        thread.join()
threading.Thread(target=churn, daemon=True).start()"""


def test_a_program_whose_threads_come_and_go_is_not_refused(examine: Examine, tmp_path: Path) -> None:
    with python(THREADS, tmp_path) as pid:
        assert [examine(pid).blockers for _ in range(60)] == [()] * 60


def test_what_only_one_of_two_looks_saw_is_no_reason() -> None:
    lasting, passing = Blocker("fd-memory", "fd 5", "it"), Blocker("fd-epoll-stale", "fd 5", "it")
    later = Blocker("fd-terminal", "fd 5", "it")
    before = TargetFindings(TargetRecord(), (lasting, passing), ())
    now = TargetFindings(TargetRecord(), (later, lasting), ("a notice",))
    assert without_passing(before, now) == TargetFindings(TargetRecord(), (lasting,), ("a notice",))


def test_established_tcp_names_both_ends(examine: Examine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with python(f"import socket; s = socket.create_connection(('127.0.0.1', {port}))", tmp_path) as pid:
            connection, peer = server.accept()
            with connection:
                blocker = the(examine(pid), "fd-tcp-established")
                assert f"127.0.0.1:{port}" in blocker.reason and f"127.0.0.1:{peer[1]}" in blocker.reason
                assert "--tcp close" in (blocker.hint or "")
                closing = examine(pid, PreflightOptions(tcp="close"))
                assert "fd-tcp-established" not in codes(closing)
                assert any(str(port) in notice for notice in closing.notices)


def test_a_session_leader_that_stays_is_told(examine: Examine) -> None:
    child = subprocess.Popen(["/bin/sleep", "100"], stdin=-3, stdout=-3, stderr=-3)
    try:
        wait_until(lambda: ProcReader().status(child.pid).name == "sleep", "exec")
        assert any(f"session leader {os.getsid(0)}" in notice for notice in examine(child.pid).notices)
        assert examine(child.pid, PreflightOptions(shell_job=True)).notices == ()
    finally:
        child.kill()
        child.wait()


def test_a_supervisor_is_named(examine: Examine, tmp_path: Path) -> None:
    script = (
        "import subprocess\nlibc.prctl(15, b'runsv', 0, 0, 0)\n"
        "child = subprocess.Popen(['/bin/sleep', '100'], stdin=-3, stdout=-3, stderr=-3)"
    )
    with python(script, tmp_path) as supervisor:
        (pid,) = ProcReader().children(supervisor)
        try:
            wait_until(lambda: ProcReader().comm(pid) == "sleep", "exec")
            blocker = the(examine(pid), "supervisor")
            assert f"runit (pid {supervisor})" in blocker.reason
        finally:
            os.kill(pid, signal.SIGKILL)


def test_files_are_needed_as_they_are_used(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / "read").write_bytes(b"content")
    script = f"os.chdir({str(tmp_path)!r}); r = os.open('read', 0); w = os.open('log', os.O_CREAT | os.O_WRONLY)"
    with python(script, tmp_path) as pid:
        needs = {need.path: need for need in examine(pid).record.files}
        read, log, cwd = needs[str(tmp_path / "read")], needs[str(tmp_path / "log")], needs[str(tmp_path)]
        assert (read.size_bytes, read.writable, len(read.sha256)) == (7, False, 32)
        assert (log.writable, log.sha256, cwd.used_as) == (True, b"", ("cwd",))
        assert needs["/dev/null"].device_number == os.stat("/dev/null").st_rdev
        shared = examine(pid, PreflightOptions(assume_shared=(str(tmp_path),))).record.files
        assert {need.path for need in shared if need.filesystem_id == "assumed"} >= {read.path, log.path, cwd.path}


def test_names_that_are_not_utf8_are_refused_and_sayable(examine: Examine, tmp_path: Path) -> None:
    script = f"os.chdir({str(tmp_path)!r}); os.mkdir(b'd\\xff'); os.chdir(b'd\\xff')\n"
    script += "w = os.open(b'f\\xff', os.O_CREAT | os.O_WRONLY); libc.prctl(15, 'fünfzehnzeichen'.encode(), 0, 0, 0)"
    with python(script, tmp_path) as pid:
        findings = examine(pid)
        assert {"file-name", "fd-name"} <= codes(findings)
        assert not any("\udcff" in str(blocker) for blocker in findings.blockers)
        assert findings.record.name == "fünfzehnzeiche"
        assert all(need.path.encode() for need in findings.record.files)


def test_listening_sockets_are_needed(examine: Examine, tmp_path: Path) -> None:
    script = (
        "import socket\nt = socket.create_server(('127.0.0.1', 0))\nu = socket.socket(socket.AF_UNIX)\n"
        f"u.bind({str(tmp_path / 's')!r}); u.listen()\nd = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "d.setsockopt(41, 26, 1); d.bind(('::1', 0))"
    )
    with python(script, tmp_path) as pid:
        tcp, unix, udp = sorted(examine(pid).record.listens, key=lambda need: need.used_as)
        assert (tcp.protocol, tcp.address) == ("tcp", "127.0.0.1") and tcp.port
        assert (unix.protocol, unix.path) == ("unix", str(tmp_path / "s"))
        assert (udp.protocol, udp.address, udp.v6only) == ("udp6", "::1", True)


def test_without_rights_the_missing_capabilities_are_named() -> None:
    user = HostRecord(user_id=1000, capabilities=0)
    with running("/bin/sleep", "100", name="sleep") as pid:
        blocker = the(collect_facts(pid, PLAIN, host=user), "rights")
        assert "CAP_SYS_PTRACE" in blocker.reason and "sudo" in (blocker.hint or "")


def test_our_own_seccomp_filter_is_told() -> None:
    filtered = HostRecord(capabilities=(1 << 41) - 1, seccomp=2)
    with running("/bin/sleep", "100", name="sleep") as pid:
        assert codes(collect_facts(pid, PLAIN, host=filtered)) == {"own-seccomp"}


def test_a_kernel_that_lacks_something_is_refused_by_feature() -> None:
    lacking = HostRecord(features=("ptrace", "pidfd_getfd", "pagemap_scan"))
    assert [blocker.reason for blocker in refuse_kernel(lacking)] == ["the kernel here lacks kcmp"]
    assert refuse_kernel(HostRecord(features=("ptrace", "kcmp", "pidfd_getfd"))) == []


def test_the_tracker_is_the_best_one_there_is_and_a_costly_one_is_told() -> None:
    best = HostRecord(features=("pagemap_scan", "uffd_wp_async", "soft_dirty"))
    soft, none = HostRecord(features=("pagemap_scan", "soft_dirty")), HostRecord(features=("uffd_wp_async",))
    assert [decide_tracker(host) for host in (best, soft, none)] == ["uffd-wp", "soft-dirty", "hash"]
    assert notice_tracker(None, best) == []
    assert "hash" in notice_tracker("hash", best)[0] and "stops" in notice_tracker(None, soft)[0]
    assert refuse_tracker(None, none) == refuse_tracker("hash", none) == refuse_tracker("soft-dirty", best) == []
    [blocker] = refuse_tracker("soft-dirty", none)
    assert blocker.subject == "--track soft-dirty" and "hash is used" in (blocker.hint or "")


def vmas(count: int, path: str = "") -> list[SmapsVma]:
    made = (Vma(at << 12, at + 1 << 12, True, True, False, False, 0, (0, 0), 1, path) for at in range(count))
    return [SmapsVma(vma, frozenset()) for vma in made]


def test_memory_above_the_47_bit_line_needs_five_levels_of_page_tables() -> None:
    top = Vma((1 << 47) - 4096, 1 << 47, True, True, False, False)
    vsyscall = Vma(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, False, False, True, False, path="[vsyscall]")
    usual = [SmapsVma(top, frozenset()), SmapsVma(vsyscall, frozenset())]
    assert needs_of_memory(usual) == ()
    assert needs_of_memory([*usual, SmapsVma(top._replace(end=top.end + 4096), frozenset())]) == ("la57",)


def test_many_mappings_are_told_by_threshold() -> None:
    assert notice_tracking(vmas(9), 100) == []
    assert "EFAULT" in notice_tracking(vmas(10), 100)[0]
    assert "vm.max_map_count" in notice_tracking(vmas(80), 100)[0]


def test_of_many_mappings_alike_a_few_are_named() -> None:
    assert len(refuse_memory(vmas(50, "anon_inode:[io_uring]"))) == 3
