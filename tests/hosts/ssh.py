"""Keys and configuration of the test hosts' OpenSSH: made once per run, written into each host's own /run."""

import functools
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SSHD_CONFIG = """\
ListenAddress 0.0.0.0
HostKey /run/ssh_host_key
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile {home}/.ssh/authorized_keys
KexAlgorithms curve25519-sha256
UseDNS no
MaxStartups 100
MaxSessions 100
SetEnv PATH={path}
Subsystem sftp internal-sftp
"""

CLIENT_CONFIG = """\
KexAlgorithms curve25519-sha256
StrictHostKeyChecking yes
BatchMode yes
ConnectTimeout 10
"""


@dataclass(frozen=True, slots=True)
class Key:
    """An ed25519 key pair in OpenSSH's text forms."""

    private: str
    public: str


@functools.cache
def make_key(name: str) -> Key:
    """The key of that name; the same one for the whole run."""
    with tempfile.TemporaryDirectory(prefix="migrate-test-key-") as folder:
        path = Path(folder, "key")
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)],
            check=True, timeout=20, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Key(path.read_text(), path.with_suffix(".pub").read_text())
