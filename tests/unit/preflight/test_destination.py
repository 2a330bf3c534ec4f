"""Looking around on a host: files, ports and names as they really are here."""

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from core.preflight import HostRecord, PreflightOptions, TargetRecord, collect_facts, collect_host, judge, look
from core.preflight.records import FileNeed, ListenNeed, OptionNeed
from tests.requires import require_root
from tests.unit.preflight.targets import python, running

NOBODY = 1 << 22


@pytest.fixture(scope="module")
def host() -> HostRecord:
    require_root()
    return replace(collect_host(), pid_namespace=0)  # as if it were not the very host that is asked about


def test_a_process_could_live_where_it_lives_but_for_its_pid(host: HostRecord) -> None:
    with running("/bin/sleep", "100", name="sleep") as pid:
        record = collect_facts(pid, PreflightOptions(), host=host).record
        assert [blocker.code for blocker in judge(record, look(record, host=host)).blockers] == ["pid-taken"]


def test_with_a_pid_namespace_it_could_live_here_twice(host: HostRecord) -> None:
    with running("/bin/sleep", "100", name="sleep") as pid:
        record = collect_facts(pid, PreflightOptions(pid_mode="namespace"), host=host).record
        assert judge(record, look(record, host=host)).blockers == ()


def test_a_changed_library_is_found(host: HostRecord, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/sleep", program)
    with running(str(program), "100", name="program") as pid:
        record = collect_facts(pid, PreflightOptions(pid_mode="namespace"), host=host).record
    content = bytearray(program.read_bytes())
    other = tmp_path / "other"
    other.write_bytes(bytes(content) + b"x")
    os.replace(other, program)
    (blocker,) = judge(record, look(record, host=host)).blockers
    assert (blocker.code, blocker.subject) == ("file-differs", f"{program} (exe, mapped)")
    program.unlink()
    (blocker,) = judge(record, look(record, host=host)).blockers
    assert blocker.code == "file-missing"


def test_files_are_the_same_by_inode_or_by_content(host: HostRecord, tmp_path: Path) -> None:
    path = tmp_path / "read"
    path.write_bytes(b"content")
    with python(f"r = os.open({str(path)!r}, os.O_RDONLY)", tmp_path) as pid:
        record = collect_facts(pid, PreflightOptions(pid_mode="namespace"), host=host).record
    assert judge(record, look(record, host=host)).blockers == ()
    copy = tmp_path / "copy"
    copy.write_bytes(b"content")
    os.replace(copy, path)
    assert judge(record, look(record, host=host)).blockers == ()
    copy.write_bytes(b"CONTENT")
    os.replace(copy, path)
    assert [blocker.code for blocker in judge(record, look(record, host=host)).blockers] == ["file-differs"]


def test_open_for_writing_is_fine_only_for_the_very_same_file(host: HostRecord, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with python(f"w = os.open({str(path)!r}, os.O_CREAT | os.O_WRONLY)", tmp_path) as pid:
        record = collect_facts(pid, PreflightOptions(pid_mode="namespace"), host=host).record
        assert judge(record, look(record, host=host)).blockers == ()
    path.rename(tmp_path / "kept")
    path.touch()
    assert [blocker.code for blocker in judge(record, look(record, host=host)).blockers] == ["file-writes"]


def test_a_listening_port_is_found_with_its_holder(host: HostRecord) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        need = ListenNeed("tcp", "127.0.0.1", server.getsockname()[1], used_as="fd 6")
        (blocker,) = judge(TargetRecord(listens=(need,)), look(TargetRecord(listens=(need,)), host=host)).blockers
        assert blocker.code == "port-taken" and f"(pid {os.getpid()})" in blocker.reason


def test_an_address_of_nobody_is_absent(host: HostRecord) -> None:
    addresses = ("192.0.2.77", "2001:db8::77", "0.0.0.0", "127.0.0.1")
    needs = tuple(ListenNeed("tcp", address, 80) for address in addresses)
    assert look(TargetRecord(listens=needs), host=host).absent_addresses == {"192.0.2.77", "2001:db8::77"}


def test_socket_options_that_cannot_be_set_are_named(host: HostRecord) -> None:
    tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sending = (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP, socket.IPPROTO_IPV6, 17)
    multicast = (socket.AF_INET, *sending[1:3], socket.IPPROTO_IP, socket.IP_MULTICAST_IF)
    needs = (
        OptionNeed(*tcp, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno" + bytes(12), used_as="fd 3"),
        OptionNeed(*tcp, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"haste" + bytes(11), used_as="fd 4"),
        OptionNeed(*tcp, socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"nosuch0\0", used_as="fd 5"),
        OptionNeed(*sending, bytes(4), "lo", used_as="fd 6"),
        OptionNeed(*sending, bytes(4), "nosuch1", used_as="fd 7"),
        OptionNeed(*sending[:4], 42, bytes(136), "nosuch2", used_as="fd 8"),
        OptionNeed(*sending[:4], 42, bytes(136), "lo", used_as="fd 9"),
        OptionNeed(*multicast, b"\n\x00\x02\x01", used_as="fd 10"),
        OptionNeed(*tcp, socket.IPPROTO_TCP, 99, b"\7\0\0\0", used_as="fd 11"),
    )
    blockers = judge(TargetRecord(options=needs), look(TargetRecord(options=needs), host=host)).blockers
    assert [(one.subject, one.code) for one in blockers] == [
        (f"fd {fd}", "socket-option") for fd in (4, 5, 7, 8, 10, 11)
    ]
    named = (
        "TCP_CONGESTION haste", "SO_BINDTODEVICE nosuch0", "IPV6_MULTICAST_IF nosuch1", "MCAST_JOIN_GROUP nosuch2",
        "IP_MULTICAST_IF 10.0.2.1", "6/99 7",
    )  # fmt: skip
    for blocker, words in zip(blockers, named, strict=True):
        assert f"its option {words} cannot" in blocker.reason


def test_unix_names_in_use_and_stale_ones(host: HostRecord, tmp_path: Path) -> None:
    live, stale, file = tmp_path / "live", tmp_path / "stale", tmp_path / "file"
    file.touch()
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(str(live))
        two.bind(str(stale))
        two.close()
        paths = (str(live), str(stale), str(file), str(tmp_path / "none"))
        found = look(TargetRecord(listens=tuple(ListenNeed("unix", path=path) for path in paths)), host=host)
    assert found.unix_in_use == {str(live), str(file)}


def test_pids_of_threads_count_as_taken(host: HostRecord) -> None:
    found = look(TargetRecord(pids=(os.getpid(), NOBODY)), host=host)
    assert set(found.holders) == {os.getpid()}


def test_devices_are_compared_by_number(host: HostRecord) -> None:
    null = FileNeed("/dev/null", os.stat("/dev/null").st_mode, device_number=os.stat("/dev/null").st_rdev)
    zero = replace(null, device_number=os.stat("/dev/zero").st_rdev)
    for need, expected in ((null, []), (zero, ["device-differs"])):
        target = TargetRecord(files=(need,))
        assert [blocker.code for blocker in judge(target, look(target, host=host)).blockers] == expected
