"""The test hosts themselves: as separate as claimed, and gone without a trace."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.hosts import Host, make_hosts
from tests.hosts.cgroup import own_cgroup
from tests.waiting import wait_until

Pair = tuple[Host, Host]
NAMESPACES = ("net", "pid", "mnt", "ipc", "uts")


def namespaces(pid: int) -> set[str]:
    return {os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def processes_in(wanted: set[str]) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if namespaces(int(entry.name)) & wanted:
                    found.append(entry.name)
            except OSError:
                continue
    return found


def cgroups_of(runner: int) -> list[Path]:
    parent = own_cgroup()
    return sorted(parent.glob(f"test-hosts-{runner}-*")) if parent else []


def test_hosts_share_no_namespace_with_each_other_or_the_machine(host_pair: Pair) -> None:
    a, b = host_pair
    mine, ones, others = namespaces(os.getpid()), namespaces(a.init_pid), namespaces(b.init_pid)
    assert len(mine | ones | others) == 3 * len(NAMESPACES)


def test_ssh_finds_the_other_host_by_name_with_strict_host_keys(host_pair: Pair) -> None:
    a, _ = host_pair
    begin = time.monotonic()
    assert a.run(["ssh", "root@host-b", "hostname"]).stdout == "host-b\n"
    assert time.monotonic() - begin < 5


def test_ssh_finds_the_migrate_command(host_pair: Pair) -> None:
    a, _ = host_pair
    assert a.run(["ssh", "root@host-b", "command -v migrate"]).stdout == "/run/bin/migrate\n"


def test_a_service_has_its_own_session_and_no_inherited_descriptor(host_pair: Pair) -> None:
    a, _ = host_pair
    pid = a.start(["sleep", "100"])
    folder = a.path(f"/proc/{pid}")
    wait_until(lambda: (folder / "comm").read_text() == "sleep\n", "sleep is executed")
    assert a.run(["ps", "-o", "ppid=,sid=,tty=", "-p", str(pid)]).stdout.split() == ["1", str(pid), "?"]
    assert {entry.name: os.readlink(entry) for entry in (folder / "fd").iterdir()} == dict.fromkeys("012", "/dev/null")
    wait_until(lambda: "SigBlk:\t0000000000000000" in (folder / "status").read_text(), "no signal is blocked")
    wait_until(lambda: "SigIgn:\t0000000000000000" in (folder / "status").read_text(), "no signal is ignored")
    a.kill(pid)
    wait_until(lambda: a.exit_status(pid) == -signal.SIGKILL, "the service is reaped")


def test_init_reaps_orphans(host_pair: Pair) -> None:
    a, _ = host_pair
    orphan = int(a.run(["sh", "-c", "sleep 0.01 >/dev/null & echo $!"]).stdout)
    wait_until(lambda: a.exit_status(orphan) == 0 and not a.alive(orphan), "the orphan is reaped")


def test_a_taken_pid_is_in_use(host_pair: Pair) -> None:
    a, _ = host_pair
    assert a.take_pid(4711) == 4711
    assert a.alive(4711)


def test_a_timeout_kills_the_program_inside(host_pair: Pair) -> None:
    a, _ = host_pair
    with pytest.raises(subprocess.TimeoutExpired):
        a.run(["sleep", "4712"], timeout_s=0.05)
    assert "4712" not in a.run(["ps", "-eo", "args"]).stdout


def test_writes_of_one_host_are_not_seen_by_the_other(host_pair: Pair) -> None:
    a, b = host_pair
    for folder in ("/tmp", "/srv", "/dev/shm", "/var/lib/migrate"):
        a.run(["sh", "-c", f"echo here >{folder}/mark"])
        assert not b.path(f"{folder}/mark").exists()
        assert not Path(folder, "mark").exists()


def test_a_bound_directory_is_the_same_on_both(tmp_path: Path) -> None:
    with make_hosts("host-a", "host-b", binds={"/srv/shared": str(tmp_path)}) as (a, b):
        a.run(["touch", "/srv/shared/mark"])
        assert b.path("/srv/shared/mark").exists()


def test_a_partition_cuts_off_and_heals(fresh_host_pair: Pair) -> None:
    a, b = fresh_host_pair
    probe = ["ssh", "-o", "ConnectTimeout=1", "root@host-b", "true"]
    b.link_down()
    assert a.run(probe, check=False).returncode == 255
    b.link_up()
    a.run(probe)


def test_closing_leaves_no_process_namespace_interface_or_cgroup() -> None:
    before = Path("/proc/net/dev").read_text().count("\n")
    cgroups = cgroups_of(os.getpid())
    with make_hosts("host-a", "host-b") as hosts:
        wanted = set().union(*(namespaces(host.init_pid) for host in hosts))
        for host in hosts:
            host.start_sshd()
            host.start(["sh", "-c", "trap '' TERM HUP; setsid sleep 100 & wait"])
            if host.cgroup is not None:
                (host.cgroup / "below").mkdir()
                (host.cgroup / "cgroup.freeze").write_text("1")
        assert processes_in(wanted)
    assert processes_in(wanted) == []
    assert cgroups_of(os.getpid()) == cgroups
    assert Path("/proc/net/dev").read_text().count("\n") == before


def test_a_killed_test_run_takes_its_hosts_with_it() -> None:
    script = """
        import sys, time
        from tests.hosts import make_hosts
        with make_hosts("host-a", "host-b") as (a, b):
            a.start_sshd()
            print(a.init_pid, b.init_pid, flush=True)
            sys.stdin.read()
    """
    argv = [sys.executable, "-c", textwrap.dedent(script)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        wanted = set().union(*(namespaces(int(pid)) for pid in process.stdout.readline().split()))
        process.kill()
    wait_until(lambda: processes_in(wanted) == [], "the hosts of the killed run are gone")

    def next_run_removes_them() -> bool:
        with make_hosts("host-a"):
            return cgroups_of(process.pid) == []

    wait_until(next_run_removes_them, "the next runs remove the cgroups of the killed one")
