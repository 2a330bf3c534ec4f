"""Preflight between two hosts: what one finds out of a service there, the other judges. Nothing is changed."""

import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from core import FileNeed, HostRecord, ListenNeed, OptionNeed, TargetRecord
from migrate.preflight import host_from_facts, host_to_facts, target_from_facts, target_to_facts
from tests.hosts import Host
from tests.hosts.host import REPOSITORY
from tests.waiting import wait_until

Pair = tuple[Host, Host]
PAUSE = "34 "  # what sleep(1) does to sleep for ever
SOURCE_HALF = """
import json, sys
from core import PreflightOptions
from migrate.preflight import ThisHost, target_to_facts
pid, options = json.loads(sys.argv[1])
found = ThisHost().examine(pid, PreflightOptions(**options))
print(json.dumps([target_to_facts(found.record).SerializeToString().hex(),
                  [[b.code, str(b), b.hint] for b in found.blockers], found.notices]))
"""
DESTINATION_HALF = """
import json, sys
from migrate.pb import control_pb2 as pb
from migrate.preflight import ThisHost
answer = ThisHost().judge(pb.TargetFacts.FromString(bytes.fromhex(sys.stdin.read())))
print(json.dumps([[[b.code, f"{b.subject}: {b.reason}", b.hint] for b in answer.blockers],
                  [notice.text for notice in answer.notices]]))
"""


@dataclass(frozen=True)
class Checked:
    """What both halves said."""

    blockers: dict[str, str]
    hints: dict[str, str]
    notices: tuple[str, ...]


def check(pair: Pair, pid: int, **options: object) -> Checked:
    """Both halves, each in its host."""
    a, b = pair
    env = {"PYTHONPATH": str(REPOSITORY)}
    argv = [sys.executable, "-c", SOURCE_HALF, json.dumps([pid, options])]
    facts, blockers, notices = json.loads(a.run(argv, env=env).stdout)
    there = b.run([sys.executable, "-c", DESTINATION_HALF], env=env, input_text=facts)
    far_blockers, far_notices = json.loads(there.stdout)
    found = [*blockers, *far_blockers]
    assert all(hint for _code, _text, hint in found)
    return Checked(
        {code: text for code, text, _hint in found}, {code: hint for code, _text, hint in found},
        (*notices, *far_notices),
    )  # fmt: skip


def sleeping(a: Host, program: str = "/bin/sleep", *, stdout: str = "/dev/null", cwd: str = "/") -> int:
    """PID of a service of host-a, once it has got as far as sleeping."""
    pid = a.start([program, "infinity"], stdout=stdout, cwd=cwd)
    wait_until(lambda: a.path(f"/proc/{pid}/syscall").read_text().startswith(PAUSE), "the service sleeps")
    return pid


@pytest.fixture
def service(host_pair: Pair) -> Iterator[int]:
    """PID of a service on host-a."""
    a, _ = host_pair
    pid = sleeping(a)
    yield pid
    a.kill(pid)


def listening(a: Host, *address: str) -> int:
    """PID of a service of host-a that listens on ADDRESS PORT."""
    script = "import socket,sys,time; s=socket.create_server((sys.argv[1],int(sys.argv[2]))); time.sleep(1e6)"
    pid = a.start([sys.executable, "-I", "-S", "-c", script, *address])
    wait_until(lambda: a.listens(int(address[1])), "the service listens")
    return pid


def test_a_plain_service_can_move(host_pair: Pair, service: int) -> None:
    found = check(host_pair, service)
    assert (found.blockers, found.notices) == ({}, ())


def test_looking_leaves_the_service_as_it_was(host_pair: Pair, service: int) -> None:
    a, _ = host_pair
    files = ("status", "cgroup", "maps", "syscall")
    before = [a.path(f"/proc/{service}/{name}").read_text() for name in files]
    check(host_pair, service)
    assert [a.path(f"/proc/{service}/{name}").read_text() for name in files] == before


def test_a_pid_taken_over_there(host_pair: Pair, service: int) -> None:
    _, b = host_pair
    b.take_pid(service)
    try:
        found = check(host_pair, service)
        assert f"pid {service} (sleep): is taken on host-b" in found.blockers["pid-taken"]
        assert "--pid namespace" in found.hints["pid-taken"]
        assert check(host_pair, service, pid_mode="namespace").blockers == {}
    finally:
        b.kill(service)


def test_a_program_that_is_missing_or_another_over_there(host_pair: Pair) -> None:
    a, b = host_pair
    a.run(["cp", "/bin/sleep", "/srv/program"])
    pid = sleeping(a, "/srv/program")
    try:
        assert "/srv/program" in check(host_pair, pid).blockers["file-missing"]
        b.run(["cp", "/bin/true", "/srv/program"])
        assert "/srv/program" in check(host_pair, pid).blockers["file-differs"]
        b.run(["cp", "/bin/sleep", "/srv/program"])
        assert check(host_pair, pid).blockers == {}
    finally:
        a.kill(pid)


def test_writes_to_a_file_that_is_not_the_same_over_there(host_pair: Pair) -> None:
    a, b = host_pair
    for host in host_pair:
        host.run(["touch", "/var/lib/journal"])
    pid = sleeping(a, stdout="/var/lib/journal")
    try:
        found = check(host_pair, pid)
        assert "writes under /var/lib" in found.blockers["file-writes"]
        assert "--shared /var/lib" in found.hints["file-writes"]
        assert check(host_pair, pid, assume_shared=["/var/lib"]).blockers == {}
        b.run(["rm", "/var/lib/journal"])
        assert set(check(host_pair, pid, assume_shared=["/var/lib"]).blockers) == {"file-missing"}
    finally:
        a.kill(pid)


def test_a_port_taken_over_there(host_pair: Pair) -> None:
    a, b = host_pair
    pid, other = listening(a, "0.0.0.0", "6390"), listening(b, "127.0.0.1", "6390")
    try:
        b_says = check(host_pair, pid).blockers["port-taken"]
        assert "TCP 0.0.0.0:6390" in b_says and f"(pid {other})" in b_says
        b.kill(other)
        wait_until(lambda: not b.listens(6390), "the port is free")
        assert check(host_pair, pid).blockers == {}
    finally:
        a.kill(pid)


def test_an_address_absent_over_there(host_pair: Pair) -> None:
    a, _ = host_pair
    pid = listening(a, a.address, "6391")
    try:
        assert a.address in check(host_pair, pid).blockers["address-absent"]
    finally:
        a.kill(pid)


def test_a_working_directory_that_is_another_over_there_is_told(host_pair: Pair) -> None:
    a, b = host_pair
    for host in host_pair:
        host.run(["mkdir", "/var/lib/place"])
    pid = sleeping(a, cwd="/var/lib/place")
    try:
        found = check(host_pair, pid)
        assert found.blockers == {}
        assert any("/var/lib/place" in notice for notice in found.notices)
        b.run(["rmdir", "/var/lib/place"])
        assert "/var/lib/place" in check(host_pair, pid).blockers["file-missing"]
    finally:
        a.kill(pid)


def test_the_init_of_a_host_stays(host_pair: Pair) -> None:
    assert set(check(host_pair, 1).blockers) == {"init"}


def test_records_travel_whole() -> None:
    host = HostRecord("h", "6.18", "boot", "machine", 0xE7, ((2, 576, 256),), ("avx",), 5, 6, 7, 8, 9, 2, True, "/cg",
                      ("kcmp", "cgroup2_freezer"), 10, "vdso", huge_pages=((2 << 20, 11),))  # fmt: skip
    file = FileNeed("/x", 0o100644, 1, 2, "ab", b"cd", True, True, True, 0, "ext4", "id", 3, ("fd 1", "exe"))
    listen = ListenNeed("tcp6", "::1", socket.IPPROTO_TCP, "/p", True, "fd 2", True)
    target = TargetRecord((1, 2), "n", (file,), (listen,), 3, 4, ("kcmp",), (5,), 6, 7, "/c", host, "namespace", "fpu",
                          8, ((7, 1, 2),), huge_pages=((2 << 20, 12), (1 << 30, 1)),
                          options=(OptionNeed(2, 1, 6, 41, 17, b"\1\0\0\0", "lo", "fd 3"),))  # fmt: skip
    assert host_from_facts(host_to_facts(host)) == host
    assert target_from_facts(target_to_facts(target)) == target


def migrate_check(pair: Pair, pid: int, *words: str) -> tuple[int, str]:
    """Exit code and everything said of `migrate check PID root@host-b`, run on host-a."""
    done = pair[0].run(["migrate", "check", str(pid), "root@host-b", *words], check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_command_says_yes(host_pair: Pair, service: int) -> None:
    code, text = migrate_check(host_pair, service)
    assert code == 0, text
    assert f"PID {service} can move to root@host-b" in text


def test_the_command_refuses_with_reason_and_hint(host_pair: Pair, service: int) -> None:
    a, b = host_pair
    b.take_pid(service)
    try:
        code, text = migrate_check(host_pair, service)
        assert code == 3, text
        assert "is taken on host-b" in text and "--pid namespace" in text
        assert migrate_check(host_pair, service, "--pid", "namespace")[0] == 0
    finally:
        b.kill(service)
    code, text = migrate_check(host_pair, 31999)
    assert code == 3 and "does not exist" in text and not a.alive(31999)


def test_the_command_names_every_blocker_as_json(host_pair: Pair) -> None:
    a, b = host_pair
    pid = listening(a, a.address, "6392")
    b.take_pid(pid)
    try:
        done = a.run(["migrate", "check", str(pid), "root@host-b", "--json"], check=False)
        assert done.returncode == 3, done.stderr
        assert all(json.loads(line) for line in done.stdout.splitlines())
        assert "pid-taken" in done.stdout and "address-absent" in done.stdout
    finally:
        a.kill(pid)
        b.kill(pid)
