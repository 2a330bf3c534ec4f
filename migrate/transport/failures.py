"""What went wrong on the way to a host, as one of our errors with a hint. Pure: facts come in, an error goes out."""

import errno
import os
import re
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from core.errors import MigrateError
from migrate.errors import (
    AuthenticationFailed,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    RemoteProgramFailed,
    RemoteProgramMissing,
    RemoteProtocolError,
    RemoteSudoRefused,
    TransportError,
)
from migrate.transport.destination import SSH_PORT, Destination
from migrate.transport.identities import Identities, fingerprint

INSTALL_HINT = (
    "`migrate bootstrap user@host` installs this version there; one that is not on the PATH of non-interactive "
    "logins is named by --remote-command"
)
_LINES_SHOWN = 3


@dataclass(slots=True)
class Attempt:
    """One attempt to log in: where to, what with, and what the host showed."""

    destination: Destination
    host: str  # what the config made of destination.host
    port: int
    user: str
    timeout_s: float
    under_sudo: bool
    known_hosts_file: Path
    identities: Identities
    shown_key: asyncssh.SSHKey | None = None
    known_keys: list[asyncssh.SSHKey] = field(default_factory=list)

    @property
    def place(self) -> str:
        """Host and port, for messages: `host-b port 22`, with the address when an alias stands for it."""
        alias = "" if self.host == self.destination.host else f" ({self.host})"
        return f"{self.destination.host}{alias} port {self.port}"


def explain_connect(error: Exception, attempt: Attempt) -> MigrateError:
    """Why no connection came about."""
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return _host_key(error.reason, attempt)
        case asyncssh.PermissionDenied():
            return _no_key_accepted("none of our keys is accepted", attempt)
        case asyncssh.ChannelOpenError():
            return HostUnreachable(
                f"{attempt.place}: the jump host cannot reach it: {error.reason}",
                hint="check ProxyJump in ~/.ssh/config, and that the jump host may connect there",
            )
        case asyncssh.DisconnectError():
            return _disconnected(error, attempt)
        case OSError():
            return _unreachable(error, attempt)
        case _:
            return HostUnreachable(f"{attempt.place}: cannot be connected to: {error}", hint="try it with ssh -v")


def _disconnected(error: asyncssh.DisconnectError, attempt: Attempt) -> TransportError:
    if "oo many authentication failures" in error.reason:
        return _no_key_accepted("the host hung up after too many keys", attempt)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return TransportError(
            f"{attempt.place}: no common algorithm: {error.reason}",
            hint="Ciphers, MACs or KexAlgorithms in ~/.ssh/config may leave none",
        )
    return _hung_up(error.reason, attempt)


def _hung_up(reason: str, attempt: Attempt) -> HostUnreachable:
    return HostUnreachable(
        f"{attempt.place}: closed the connection before the login: {reason}",
        hint="is an SSH server on that port, and does it let this address in (MaxStartups, AllowUsers, hosts.deny)?",
    )


def _unreachable(error: OSError, attempt: Attempt) -> HostUnreachable:
    if isinstance(error, socket.gaierror):
        return HostUnreachable(
            f"{attempt.destination.host}: the name {attempt.host} cannot be resolved: {error.strerror}",
            hint="check the spelling, or give it a HostName in ~/.ssh/config",
        )
    number = _errno_of(error)
    if number in (errno.ECONNRESET, errno.EPIPE):
        return _hung_up(os.strerror(number), attempt)
    hints = {
        errno.ECONNREFUSED: f"is sshd running there, and on port {attempt.port}? Another one: host:PORT",
        errno.EHOSTUNREACH: "is the host up? Check the route to it: ip route get",
        errno.ENETUNREACH: "check the route to it: ip route get",
    }
    if number in hints:
        return HostUnreachable(f"{attempt.place}: {os.strerror(number).lower()}", hint=hints[number])
    if isinstance(error, TimeoutError):
        return HostUnreachable(
            f"{attempt.place}: no answer within {attempt.timeout_s:g} s",
            hint="is the host up, and does a firewall drop the packets? ConnectTimeout in ~/.ssh/config waits longer",
        )
    return HostUnreachable(
        f"{attempt.place}: cannot be connected to: {error.strerror or error}", hint="try it with ssh -v"
    )


def _errno_of(error: OSError) -> int:
    """asyncio folds the errors of several addresses into one without a number, but with their texts."""
    if error.errno is not None:
        return error.errno
    inner = re.findall(r"\[Errno (\d+)\]", str(error))
    return int(inner[0]) if inner else 0


def _host_key(reason: str, attempt: Attempt) -> TransportError:
    host, file = attempt.destination.host, attempt.known_hosts_file
    shown = _name_key(attempt.shown_key)
    if "revoked" in reason:
        return HostKeyChanged(f"{host}: host key {shown} is revoked: {reason}", hint=f"see {file}")
    if attempt.known_keys:
        known = ", ".join(_name_key(key) for key in attempt.known_keys)
        return HostKeyChanged(
            f"{host}: host key has CHANGED: known is {known}, shown is {shown}", hint=_forget(attempt)
        )
    if attempt.shown_key is None:  # a certificate
        return HostKeyUnknown(f"{host}: host key cannot be verified: {reason}", hint=f"see {file}")
    port = f"-p {attempt.port} " if attempt.port != SSH_PORT else ""
    return HostKeyUnknown(
        f"{host}: host key is not known: {shown} is not in {file}",
        hint=f"compare it with `ssh-keygen -lf` of the key in /etc/ssh there, then log in once with "
        f"`ssh {port}{attempt.user}@{host}`, or: ssh-keyscan {port}{attempt.host} >> {file}",
    )


def _forget(attempt: Attempt) -> str:
    default = attempt.port == SSH_PORT
    name = attempt.host if default else f"'[{attempt.host}]:{attempt.port}'"
    return (
        "somebody may be listening in; nothing was sent. Only if the host was reinstalled: "
        f"ssh-keygen -f {attempt.known_hosts_file} -R {name}, then log in once with ssh"
    )


def _name_key(key: asyncssh.SSHKey | None) -> str:
    return f"{key.get_algorithm()} {fingerprint(key.public_data)}" if key else "(a certificate)"


def _no_key_accepted(reason: str, attempt: Attempt) -> AuthenticationFailed:
    found = attempt.identities
    tried = ", ".join(found.descriptions) or "none, there was no key to try"
    left_out = f"; left out: {', '.join(found.left_out)}" if found.left_out else ""
    sudo = "; run under sudo, only the caller's and root's own files count" if attempt.under_sudo else ""
    return AuthenticationFailed(
        f"{attempt.user}@{attempt.destination.host}: {reason}: tried: {tried}{left_out}; {found.agent_state}",
        hint=f"name the key with -i KEY, load it with ssh-add, or add its .pub to ~{attempt.user}/.ssh/authorized_keys "
        f"there; a site without root logins: user@host --remote-command 'sudo -n migrate'{sudo}",
    )


def explain_exit(host: str, command: Sequence[str], status: int, said: Sequence[str], spoke: bool) -> TransportError:
    """Why the program there ended. `said`: its last lines on stderr; `spoke`: at least one frame had come from it."""
    if not spoke and (error := explain_no_start(host, command, status, said)) is not None:
        return error
    line = shlex.join(command)
    if spoke:
        return RemoteProgramFailed(f"{host}: {line}: ended with status {status}{_last(said)}")
    return RemoteProtocolError(
        f"{host}: {line}: ended with status {status} before it spoke our protocol{_last(said)}",
        hint=f"is {_program(command)} there our program, and of a version like this one? Try: ssh {host} {line}",
    )


def explain_no_start(host: str, command: Sequence[str], status: int, said: Sequence[str]) -> TransportError | None:
    """The error when `status` and `said` are a shell's or sudo's, because the program never ran."""
    sudo = any(text.startswith("sudo:") for text in said)
    missing = status == 127 or (sudo and any("command not found" in text for text in said))
    if missing:
        return RemoteProgramMissing(f"{host}: {_program(command)}: not installed{_last(said)}", hint=INSTALL_HINT)
    if status == 126:
        return RemoteProgramMissing(f"{host}: {_program(command)}: cannot be run{_last(said)}", hint=INSTALL_HINT)
    if sudo and status != 0:
        return RemoteSudoRefused(
            f"{host}: {shlex.join(command)}: sudo refuses{_last(said)}",
            hint=f"allow it without a password, with visudo: USER ALL=(root) NOPASSWD: /path/to/{_program(command)}",
        )
    return None


def _last(said: Sequence[str]) -> str:
    """The end of what the program said, to go after a reason."""
    return f": {'; '.join(list(said)[-_LINES_SHOWN:])}" if said else ""


def _program(command: Sequence[str]) -> str:
    """What was to run, behind sudo and its options."""
    words = [word for word in command if not word.startswith("-") and Path(word).name != "sudo"]
    return words[0] if words else command[0]
