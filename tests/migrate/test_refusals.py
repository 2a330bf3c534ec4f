"""Everything that is in the way is refused before anything is touched: exit code 3, its own words, a hint, and the
process as it was. `migrate check` says the same."""

import pwd
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from core import PreflightOptions, collect_facts
from tests.hosts import Host
from tests.hosts.host import HOME
from tests.hosts.ssh import make_key
from tests.migrate.moving import Pair, Said, assert_nothing_left, journals, look_at, state_of
from tests.waiting import wait_until

SLEEPS = ("34 ", "230 ")  # pause, clock_nanosleep
NO_PID = 31999


def sleeping(host: Host, *argv: str, stdout: str = "/dev/null") -> int:
    """PID of a service of the host, once it has got as far as sleeping."""
    pid = host.start([*(argv or ["/bin/sleep"]), "infinity"], stdout=stdout)
    wait_until(lambda: host.path(f"/proc/{pid}/syscall").read_text().startswith(SLEEPS), "the service sleeps")
    return pid


def script(host: Host, text: str, *argv: str) -> int:
    """PID of a Python program of the host that is ready: it has made /run/ready."""
    ready = host.path("/run/ready")
    if ready.exists():
        ready.rmdir()
    pid = host.start([sys.executable, "-I", "-S", "-c", text, *argv])
    wait_until(ready.exists, "the program is ready")
    return pid


@contextmanager
def killed_afterwards(host: Host, pid: int) -> Iterator[int]:
    try:
        yield pid
    finally:
        if host.exit_status(pid) is None and host.alive(pid):
            host.kill(pid)


def refused(
    pair: Pair, pid: int, *words: str, destination: str = "root@host-b", untouched: bool = True, twice: bool = True
) -> Said:
    """`migrate` and `migrate check` both refuse for the same reasons; the process is as it was."""
    before = look_at(pair.a, pid) if untouched else None
    known = journals(pair.a), journals(pair.b)
    said = pair.migrate(pid, destination, *words)
    checked = pair.migrate("check", pid, destination, *words) if twice else said
    assert (said.code, checked.code) == (3, 3), said.text + checked.text
    assert said.err == checked.err
    assert "othing was touched" in said.err and "→" in said.err
    assert "Traceback" not in said.text and "internal error" not in said.text
    assert (journals(pair.a), journals(pair.b)) == known
    assert before is None or look_at(pair.a, pid) == before
    return said


@pytest.fixture
def service(pair: Pair) -> Iterator[int]:
    """PID of a service on host-a that could move."""
    with killed_afterwards(pair.a, sleeping(pair.a)) as pid:
        yield pid


@dataclass(frozen=True)
class Case:
    """What is done to a service of host-a, and what the refusal has to say of it."""

    name: str
    words: tuple[str, ...]
    make: Callable[[Pair, ExitStack], int]


def no_process(pair: Pair, stack: ExitStack) -> int:
    return NO_PID


def zombie(pair: Pair, stack: ExitStack) -> int:
    text = """
import os, time
child = os.fork()
if child == 0: os._exit(0)
open("/run/zombie", "w").write(str(child))
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
os.mkdir("/run/ready"); time.sleep(1e6)
"""
    stack.enter_context(killed_afterwards(pair.a, script(pair.a, text)))
    return int(pair.a.path("/run/zombie").read_text())


def traced(pair: Pair, stack: ExitStack) -> int:
    pid = stack.enter_context(killed_afterwards(pair.a, sleeping(pair.a)))
    text = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None)
assert libc.ptrace(0x4206, int(sys.argv[1]), None, None) == 0
os.mkdir("/run/ready"); time.sleep(1e6)
"""
    stack.enter_context(killed_afterwards(pair.a, script(pair.a, text, str(pid))))
    return pid


def taken_pid(pair: Pair, stack: ExitStack) -> int:
    pid = stack.enter_context(killed_afterwards(pair.a, sleeping(pair.a)))
    take(pair, stack, pid)
    return pid


def take(pair: Pair, stack: ExitStack, pid: int) -> None:
    """On host-b, which then goes on giving out PIDs far from those of host-a."""
    stack.enter_context(killed_afterwards(pair.b, pair.b.take_pid(pid)))
    pair.b.start(["true"], pid=20000 + pid)


def missing_program(pair: Pair, stack: ExitStack) -> int:
    pair.a.run(["cp", "/bin/sleep", "/srv/only-here"])
    return stack.enter_context(killed_afterwards(pair.a, sleeping(pair.a, "/srv/only-here")))


def other_program(pair: Pair, stack: ExitStack) -> int:
    pair.a.run(["cp", "/bin/sleep", "/srv/other-there"])
    pair.b.run(["cp", "/bin/cat", "/srv/other-there"])
    return stack.enter_context(killed_afterwards(pair.a, sleeping(pair.a, "/srv/other-there")))


def other_log(pair: Pair, stack: ExitStack) -> int:
    for host in (pair.a, pair.b):
        host.run(["touch", "/var/lib/journal"])
    return stack.enter_context(killed_afterwards(pair.a, sleeping(pair.a, stdout="/var/lib/journal")))


def listening(host: Host, port: int) -> int:
    text = """
import os, socket, sys, time
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
os.mkdir("/run/ready"); time.sleep(1e6)
"""
    return script(host, text, str(port))


def taken_port(pair: Pair, stack: ExitStack) -> int:
    stack.enter_context(killed_afterwards(pair.b, listening(pair.b, 6390)))
    return stack.enter_context(killed_afterwards(pair.a, listening(pair.a, 6390)))


def connected(pair: Pair, stack: ExitStack) -> int:
    text = """
import os, socket, time
client = socket.create_connection(("10.77.0.2", 22))
os.mkdir("/run/ready"); time.sleep(1e6)
"""
    return stack.enter_context(killed_afterwards(pair.a, script(pair.a, text)))


def with_terminal(pair: Pair, stack: ExitStack) -> int:
    text = """
import os, pty, time
child, master = pty.fork()
if child == 0:
    os.mkdir("/run/ready"); time.sleep(1e6)
open("/run/child", "w").write(str(child))
time.sleep(1e6)
"""
    stack.enter_context(killed_afterwards(pair.a, script(pair.a, text)))
    wait_until(lambda: pair.a.path("/run/child").read_text(), "the PID is told")
    return stack.enter_context(killed_afterwards(pair.a, int(pair.a.path("/run/child").read_text())))


def with_a_poll(pair: Pair, stack: ExitStack) -> int:
    """A request to tell when there is something in a pipe, into which nobody writes."""
    text = """
import ctypes, os, struct, time
libc = ctypes.CDLL(None)
context, reading = ctypes.c_ulong(0), os.pipe()[0]
assert libc.syscall(206, 8, ctypes.byref(context)) == 0
request = ctypes.create_string_buffer(struct.pack("<QIiHhIQQqQII", 1, 0, 0, 5, 0, reading, 1, 0, 0, 0, 0, 0), 64)
assert libc.syscall(209, context, ctypes.c_long(1), (ctypes.c_void_p * 1)(ctypes.addressof(request))) == 1
os.mkdir("/run/ready"); time.sleep(1e6)
"""
    return stack.enter_context(killed_afterwards(pair.a, script(pair.a, text)))


CASES = [
    Case("no-process", ("does not exist",), no_process),
    Case("init", ("is the init of this host",), lambda pair, stack: 1),
    Case("zombie", ("is a zombie",), zombie),
    Case("traced", ("is traced by python", "detach it"), traced),
    Case("pid-taken", ("is taken on host-b", "--pid namespace"), taken_pid),
    Case("file-missing", ("/srv/only-here",), missing_program),
    Case("file-differs", ("/srv/other-there",), other_program),
    Case("file-writes", ("writes under /var/lib", "--shared /var/lib"), other_log),
    Case("port-taken", ("0.0.0.0:6390", "host-b"), taken_port),
    Case("tcp-established", ("10.77.0.2:22", "--tcp close"), connected),
    Case("terminal", ("/dev/pts/",), with_terminal),
    Case("aio-in-flight", ("requests in flight", "IOCB_CMD_POLL", "io_cancel"), with_a_poll),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_by_name_with_a_hint(case: Case, pair: Pair) -> None:
    with ExitStack() as stack:
        pid = case.make(pair, stack)
        said = refused(pair, pid, untouched=case.name not in ("no-process", "init", "zombie"))
        for word in case.words:
            assert word in said.err, said.err


def test_everything_is_said_at_once(pair: Pair) -> None:
    with ExitStack() as stack:
        pid = taken_port(pair, stack)
        take(pair, stack, pid)
        said = refused(pair, pid)
        assert "2 reasons" in said.err and "is taken on host-b" in said.err and "0.0.0.0:6390" in said.err


def test_a_kernel_thread_stays() -> None:
    """No host sees one in its PID namespace: asked on the machine itself, of the code that the command uses."""
    thread = next(pid for pid in range(2, 100) if is_kernel_thread(pid))
    found = collect_facts(thread, PreflightOptions())
    assert [blocker.code for blocker in found.blockers] == ["kernel-thread"]
    assert found.blockers[0].hint


def is_kernel_thread(pid: int) -> bool:
    """Child of kthreadd."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == "2"
    except FileNotFoundError:
        return False


def test_ourselves_and_our_shell_stay(pair: Pair) -> None:
    for text, word in (
        ("migrate $$ root@host-b; true", "runs this program"),
        ("exec migrate $$ root@host-b", "this very"),
    ):
        done = pair.a.run(["sh", "-c", text], check=False)
        assert word in done.stderr and "→" in done.stderr, done.stdout + done.stderr


def test_without_root_it_says_sudo(pair: Pair, service: int) -> None:
    nobody = pwd.getpwnam("nobody")
    readable = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]  # Python may lie in root's home
    drop = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *readable, "--"]
    done = pair.a.run([*drop, "migrate", str(service), "root@host-b"], check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "sudo migrate" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x", "root@host-b"], "is neither a command nor a PID"),
        (["0", "root@host-b"], "is not a process id"),
        (["{pid}"], "issing"),
        (["{pid}", "root@host-b", "--bandwidth", "10"], "--bandwidth"),
        (["{pid}", "root@host-b", "--max-downtime", "5"], "--max-downtime"),
        (["{pid}", "root@host-b", "--tcp", "keep"], "--tcp"),
        (["{pid}", "root@host-b", "--streams", "0"], "--streams"),
        (["{pid}", "root@host-b", "--streams", "2"], "not carried yet"),
        (["{pid}", "root@host-b", "--known-hosts"], "--known-hosts"),
        (["{pid}", "root@host-b", "--no-such-option"], "--no-such-option"),
        (["{pid}", "root@"], "root@"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2(words: list[str], said: str, pair: Pair, service: int) -> None:
    before = look_at(pair.a, service)
    done = pair.migrate(*(word.format(pid=service) for word in words))
    assert done.code == 2, done.text
    assert said in done.err
    assert look_at(pair.a, service) == before


@contextmanager
def instead(host: Host, path: str, text: str | None) -> Iterator[None]:
    """A file of the host with another text, or none, for a while."""
    file = host.path(path)
    kept, mode = file.read_bytes(), file.stat().st_mode
    try:
        file.unlink()
        if text is not None:
            file.write_text(text)
            file.chmod(mode)
        yield
    finally:
        file.unlink(missing_ok=True)
        file.write_bytes(kept)
        file.chmod(mode)


def test_an_unknown_host_key(pair: Pair, service: int) -> None:
    with instead(pair.a, f"{HOME}/.ssh/known_hosts", ""):
        said = refused(pair, service)
    assert "host key is not known" in said.err and "ssh-keyscan" in said.err


def test_a_changed_host_key(pair: Pair, service: int) -> None:
    with instead(pair.a, f"{HOME}/.ssh/known_hosts", f"host-b {make_key('somebody-else').public}"):
        said = refused(pair, service)
    assert "host key has CHANGED" in said.err and "ssh-keygen" in said.err


def test_a_key_that_is_not_accepted(pair: Pair, service: int) -> None:
    with instead(pair.a, f"{HOME}/.ssh/id_ed25519", make_key("stranger").private):
        said = refused(pair, service)
    assert "none of our keys is accepted" in said.err and "id_ed25519" in said.err


def test_a_key_file_that_is_not_there(pair: Pair, service: int) -> None:
    said = refused(pair, service, "-i", "/run/no-such-key")
    assert "key /run/no-such-key: cannot be read" in said.err


def test_a_host_whose_name_nobody_knows(pair: Pair, service: int) -> None:
    said = refused(pair, service, destination="root@host-x.invalid")
    assert "cannot be resolved" in said.err


def test_a_host_where_no_ssh_server_listens(pair: Pair, service: int) -> None:
    said = refused(pair, service, destination="root@host-b:2222")
    assert "port 2222" in said.err and "refused" in said.err


def test_a_host_that_is_cut_off(pair: Pair, service: int) -> None:
    with instead(pair.a, f"{HOME}/.ssh/config", "Host *\n  ConnectTimeout 1\n"):
        pair.b.link_down()
        try:
            said = refused(pair, service, twice=False)  # the kernel's words depend on the moment
        finally:
            pair.b.link_up()
            probe = ["bash", "-c", "exec 3<>/dev/tcp/host-b/22"]
            wait_until(lambda: pair.a.run(probe, check=False).returncode == 0, "the link works again")
    assert "host-b port 22" in said.err and "is the host up" in said.err


def test_a_host_without_the_program(pair: Pair, service: int) -> None:
    command = pair.b.path("/run/bin/migrate")
    aside = command.with_name("aside")
    command.rename(aside)
    try:
        said = refused(pair, service)
    finally:
        aside.rename(command)
    assert "not installed" in said.err and "migrate bootstrap" in said.err


def test_check_touches_nothing_and_says_yes(pair: Pair, service: int) -> None:
    before = look_at(pair.a, service), journals(pair.a), journals(pair.b)
    said = pair.migrate("check", service, "root@host-b")
    assert (said.code, said.err) == (0, ""), said.text
    assert f"PID {service} can move to root@host-b" in said.out
    assert (look_at(pair.a, service), journals(pair.a), journals(pair.b)) == before
    assert_nothing_left([pair.a, pair.b])


def test_after_all_refusals_the_service_still_moves(pair: Pair, service: int) -> None:
    said = pair.migrate(service, "root@host-b")
    assert said.code == 0, said.text
    assert pair.b.alive(service) and not pair.a.alive(service)
    pair.b.kill(service, signal.SIGTERM)
    wait_until(lambda: not pair.b.alive(service), "the copy takes signals")
    assert_nothing_left([pair.a, pair.b])
    assert [state_of(host, name.partition(".")[0]) for host in (pair.a, pair.b) for name in journals(host)] == [
        "DONE", "RESUMED",
    ]  # fmt: skip
