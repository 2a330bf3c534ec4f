"""A real OpenSSH server on 127.0.0.1 with a configuration of its own; ended by pid."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from migrate.transport.caller import Caller
from migrate.transport.connect import SshOptions
from migrate.transport.destination import Destination
from tests.requires import require_program
from tests.waiting import wait_until

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile {folder}/authorized_keys
MaxSessions 4
"""


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A key pair at `path` and `path`.pub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)],
        check=True, timeout=20, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return path


@dataclass(frozen=True, slots=True)
class Server:
    """A running sshd and a home directory whose ~/.ssh may log in to it and knows it."""

    pid: int
    port: int
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def user(self) -> str:
        return getpass.getuser()

    @property
    def known_hosts(self) -> Path:
        return self.home / ".ssh" / "known_hosts"

    @property
    def destination(self) -> Destination:
        return Destination(None, "127.0.0.1", self.port)

    @property
    def caller(self) -> Caller:
        return Caller(self.user, self.home, None)

    def options(self, *remote_command: str) -> SshOptions:
        return SshOptions(remote_command=remote_command or ("sh", "-c"))

    def session_pids(self) -> list[int]:
        """The sshd processes that serve connections, and what they started."""
        return descendants(self.pid)

    def know(self, text: str) -> None:
        self.known_hosts.write_text(text)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents first."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *descendants(child))]


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def known_hosts_line(port: int, public_key: Path) -> str:
    return f"[127.0.0.1]:{port} {public_key.read_text()}"


@contextmanager
def run_sshd(folder: Path, extra_config: str = "") -> Iterator[Server]:
    """Start sshd; it and everything below it is gone afterwards."""
    program = require_program("sshd")
    require_program("ssh-keygen")
    port = free_port()
    make_key(folder / "host_key")
    make_key(folder / "home" / ".ssh" / "id_ed25519")
    shutil.copy(folder / "home" / ".ssh" / "id_ed25519.pub", folder / "authorized_keys")
    config = folder / "sshd_config"
    config.write_text(CONFIG.format(port=port, folder=folder) + extra_config)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*own_run_directory(), program, "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, cwd="/",
        )  # fmt: skip
    try:
        wait_until(lambda: accepts(port) or process.poll() is not None, "sshd listens")
        assert process.poll() is None, (folder / "log").read_text()
        server = Server(process.pid, port, folder)
        server.know(known_hosts_line(port, folder / "host_key.pub"))
        yield server
    finally:
        kill([*reversed(descendants(process.pid)), process.pid])
        process.wait(timeout=10)


def own_run_directory() -> list[str]:
    """Started by root sshd insists on /run/sshd: it gets a /run of its own, the machine's stays as it is."""
    if os.geteuid() != 0:
        return []
    script = 'mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec "$@"'
    return [require_program("unshare"), "--mount", "sh", "-c", script, "sh"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
