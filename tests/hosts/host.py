"""One test host: its namespaces, its programs, its sshd. Joining several is lab.py, PID 1 is init.py."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.hosts.cgroup import make_cgroup, remove_cgroup, thaw
from tests.hosts.ssh import SSHD_CONFIG
from tests.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
INIT = Path(__file__).with_name("init.py")
HOME = "/run/root"
SEARCH_PATH = "/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN_TMPFS = ("/run", "/tmp", "/var/tmp", "/var/lib", "/var/log", "/srv", "/dev/shm")
LISTEN = "0A"


class HostPopen(subprocess.Popen[Any]):
    """A program inside a host; signals go to the program and not to the nsenter(1) around it."""

    def inner_pid(self) -> int:
        """PID of the program itself, as the machine counts."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return int(wait_until(lambda: children.read_text().split(), "the program in the host is started")[0])

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.inner_pid(), sig)


class Host:
    """A host with the name `name`; `close()` ends every process in it and everything it mounted or made.

    Own file systems: OWN_TMPFS. Root's home is HOME (in /run), so the machine's /root/.ssh plays no part.
    `binds` maps a directory in the host to one of the machine, e.g. to give two hosts the same files.
    """

    def __init__(
        self, name: str, *, files: Mapping[str, str] | None = None, binds: Mapping[str, str] | None = None,
        first_pid: int = 1000,
    ) -> None:  # fmt: skip
        self.name = name
        self.address = ""
        self.links: list[str] = []
        self.env = {"PATH": SEARCH_PATH, "HOME": HOME, "USER": "root", "LOGNAME": "root", "LANG": "C.UTF-8"}
        self.cgroup = make_cgroup(name)
        ours, theirs = socket.socketpair()
        spec = json.dumps(host_spec(name, files or {}, binds or {}, first_pid))
        with theirs:
            argv = self._in_cgroup([sys.executable, "-I", "-S", str(INIT), str(theirs.fileno())])
            self._launcher = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd="/")
        ours.settimeout(20)
        self._control = ours
        self._lines = ours.makefile("rwb", buffering=0)
        self.init_pid = 0
        try:
            ours.sendall(spec.encode() + b"\n")
            for _ in ("init", "ready"):  # either may come first
                self.init_pid = self._answer().get("init", self.init_pid)
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its init ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._lines.write(json.dumps(request).encode() + b"\n")
        return self._answer()

    def path(self, inside: str) -> Path:
        """Where a path of the host is found from outside; symlinks in it must be relative."""
        return Path(f"/proc/{self.init_pid}/root{inside}")

    def _in_cgroup(self, argv: Sequence[str]) -> list[str]:
        if self.cgroup is None:
            return list(argv)
        return ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(self.cgroup / "cgroup.procs"), *argv]

    def _enter(self, argv: Sequence[str]) -> list[str]:
        return self._in_cgroup(["nsenter", "-t", str(self.init_pid), "-n", "-p", "-m", "-i", "-u", "--", *argv])

    def popen(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any) -> HostPopen:
        """subprocess.Popen inside the host, cwd /; `env` is added to the host's own environment."""
        return HostPopen(self._enter(argv), env={**self.env, **(env or {})}, **options)

    def run(
        self, argv: Sequence[str], *, timeout_s: float = 60, check: bool = True, input_text: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run to the end with stdout and stderr as text; check: a failure is an AssertionError that shows them."""
        stdin = subprocess.DEVNULL if input_text is None else subprocess.PIPE
        streams: dict[str, Any] = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with self.popen(argv, env=env, **streams) as process:
            try:
                out, err = process.communicate(input_text, timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: exit {process.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def start(
        self, argv: Sequence[str], *, stdin: str = "/dev/null", stdout: str = "/dev/null", stderr: str | None = None,
        cwd: str = "/", env: Mapping[str, str] | None = None, pid: int | None = None,
    ) -> int:  # fmt: skip
        """Start a service: child of init, own session, stdio on files of the host. Its PID, as the host counts."""
        request = {"argv": list(argv), "cwd": cwd, "env": {**self.env, **(env or {})}, "pid": pid}
        answer = self._ask(do="start", stdin=stdin, stdout=stdout, stderr=stderr or stdout, **request)
        return int(answer["pid"])

    def exit_status(self, pid: int) -> int | None:
        """Exit code of a task that init has reaped (negative: killed by that signal); None if it has not."""
        status: int | None = self._ask(do="status", pid=pid)["status"]
        return status

    def alive(self, pid: int) -> bool:
        """Is there a task or zombie with this PID, as the host counts?"""
        return self.path(f"/proc/{pid}").exists()

    def take_pid(self, pid: int) -> int:
        """Occupy `pid` with a sleeping process."""
        taken = self.start(["sleep", "infinity"], pid=pid)
        if taken != pid:
            raise AssertionError(f"{self.name}: PID {pid} could not be taken, got {taken}")
        return taken

    def machine_pid(self, pid: int) -> int:
        """The PID that the machine has for PID `pid` of this host."""
        namespace = os.readlink(f"/proc/{self.init_pid}/ns/pid")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and in_namespace(entry, namespace) and ns_pid(entry) == pid:
                return int(entry.name)
        raise ProcessLookupError(f"{self.name}: no PID {pid}")

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> None:
        """Send a signal to PID `pid` of this host."""
        os.kill(self.machine_pid(pid), sig)

    def start_sshd(self, *options: str) -> int:
        """OpenSSH on port 22 for root with keys only; returns when it listens. Its PID."""
        self.path("/run/sshd_config").write_text(SSHD_CONFIG.format(path=SEARCH_PATH, home=HOME))
        argv = ["/usr/sbin/sshd", "-D", "-e", "-f", "/run/sshd_config", *options]
        pid = self.start(argv, stdout="/run/sshd.log")
        wait_until(lambda: self.listens(22) or self.exit_status(pid) is not None, f"{self.name}: sshd listens")
        if not self.listens(22):
            raise AssertionError(f"{self.name}: sshd ended: {self.path('/run/sshd.log').read_text()}")
        return pid

    def listens(self, port: int) -> bool:
        """Does anybody listen on this TCP port of the host (IPv4)?"""
        rows = [line.split() for line in Path(f"/proc/{self.init_pid}/net/tcp").read_text().splitlines()[1:]]
        return any(int(row[1].split(":")[1], 16) == port and row[3] == LISTEN for row in rows)

    def configure_network(self, *commands: str) -> None:
        """Lines for ip(8), in this host's network."""
        subprocess.run(
            ["nsenter", "-t", str(self.init_pid), "-n", "ip", "-batch", "-"],
            input="\n".join(commands), text=True, check=True, timeout=20,
        )  # fmt: skip

    def link_down(self) -> None:
        """Cut this host off from all others; its loopback stays."""
        self.configure_network(*(f"link set {link} down" for link in self.links))

    def link_up(self) -> None:
        """Undo link_down."""
        self.configure_network(*(f"link set {link} up" for link in self.links))

    def close(self) -> None:
        """End init, and with it everything; returns when nothing is left. May be called twice."""
        self._lines.close()
        self._control.close()
        if self.cgroup is not None:
            thaw(self.cgroup)
        try:
            self._launcher.wait(timeout=10)
        except subprocess.TimeoutExpired:
            if self.init_pid:
                os.kill(self.init_pid, signal.SIGKILL)
            self._launcher.wait(timeout=10)
        if self.cgroup is not None:
            remove_cgroup(self.cgroup)
            self.cgroup = None


def host_spec(name: str, files: Mapping[str, str], binds: Mapping[str, str], first_pid: int) -> dict[str, Any]:
    """What init.py is told; `files` below /run/over are bound over the machine's files of that name."""
    covered = [str(REPOSITORY)] if any(REPOSITORY.is_relative_to(path) for path in OWN_TMPFS) else []
    passwd = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
    own = {
        "/run/over/etc/hostname": f"{name}\n",
        "/run/over/etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {name}\n",
        "/run/over/etc/passwd": "\n".join([f"root:x:0:0:root:{HOME}:/bin/bash", *passwd]) + "\n",
        "/run/over/etc/shadow": "root:*:19000:0:99999:7:::\n",
        **files,
    }
    over = [path.removeprefix("/run/over") for path in own if path.startswith("/run/over/")]
    tmpfs = [path for path in OWN_TMPFS if os.path.isdir(path)]
    return {
        "name": name, "files": own, "over": over, "binds": dict(binds), "keep": covered, "tmpfs": tmpfs,
        "first_pid": first_pid,
    }  # fmt: skip


def in_namespace(entry: Path, namespace: str) -> bool:
    """Is the process at /proc/PID `entry` in this PID namespace?"""
    try:
        return os.readlink(entry / "ns/pid") == namespace
    except OSError:
        return False


def ns_pid(entry: Path) -> int | None:
    """PID in its innermost namespace, None when it has just gone."""
    try:
        lines = (entry / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), None)
