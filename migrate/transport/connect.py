"""One SSH connection, made as ssh(1) would make it: config, jump hosts, keys, agent, known_hosts. Always strict."""

import asyncio
import contextlib
import os
import pwd
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from core.errors import UsageError
from migrate.transport.caller import Caller
from migrate.transport.destination import SSH_PORT, Destination, parse_destination
from migrate.transport.failures import Attempt, explain_connect
from migrate.transport.identities import DEFAULT_NAMES, Identities, collect_identities

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
# Fastest first: with AES in hardware, asyncssh to OpenSSH does 500 MB/s by AES-GCM and 310 by ChaCha20.
CIPHERS = (
    "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com",
    "aes128-ctr", "aes192-ctr", "aes256-ctr",
)  # fmt: skip
CLOSE_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class SshOptions:
    """How to connect. What is None comes from ~/.ssh/config, then from ssh's defaults.

    `config` and `known_hosts` name the only file to look at, as ssh -F and -o UserKnownHostsFile do.
    """

    identity_files: tuple[Path, ...] = ()
    known_hosts: Path | None = None
    config: Path | None = None
    connect_timeout_s: float | None = None
    keepalive_interval_s: float = 5.0
    keepalive_count_max: int = 3
    remote_command: tuple[str, ...] = ("migrate",)


class _HostKeyWitness(asyncssh.SSHClient):
    """Is asked about host keys that are not trusted; always says no, and remembers what was shown."""

    def __init__(self, attempt: Attempt, known: asyncssh.SSHKnownHosts) -> None:
        self._attempt = attempt
        self._known = known

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self._attempt.shown_key = key
        if port == SSH_PORT:
            names = [host, addr]
        else:
            names = [f"[{host}]:{port}", f"[{addr}]:{port}"]
        for name in names:
            known = self._known.match(name, "", None)[0]
            self._attempt.known_keys += [each for each in known if each not in self._attempt.known_keys]
        return False


async def connect(
    destination: Destination, options: SshOptions, caller: Caller, stack: AsyncExitStack,
    *, via: asyncssh.SSHClientConnection | None = None, on_the_way_to: tuple[str, ...] = (),
) -> asyncssh.SSHClientConnection:  # fmt: skip
    """The connection, and those to jump hosts, all closed by `stack`. Inside `as_caller(caller)`."""
    settings = _read_settings(destination, options, caller)
    identities = await _collect(settings, options, caller)
    stack.callback(identities.close)
    files = _known_hosts_files(settings, options, caller)
    known = _read_known_hosts(files)
    attempt = Attempt(
        destination, settings.host, settings.port, settings.username, _timeout_s(settings, options),
        caller.under_sudo, files[0], identities,
    )  # fmt: skip
    jump = via or await _connect_jump_hosts(settings, destination, options, caller, stack, on_the_way_to)
    try:
        connection = await _connect(attempt, known, settings, options, caller, jump)
    except (asyncssh.Error, OSError, ValueError) as error:
        raise explain_connect(error, attempt) from error
    stack.push_async_callback(close_connection, connection)
    return connection


async def _connect(
    attempt: Attempt, known: asyncssh.SSHKnownHosts, settings: asyncssh.SSHClientConnectionOptions,
    options: SshOptions, caller: Caller, jump: asyncssh.SSHClientConnection | None,
) -> asyncssh.SSHClientConnection:  # fmt: skip
    destination = attempt.destination
    return await asyncssh.connect(
        destination.host,
        () if destination.port is None else destination.port,
        username=destination.user or settings.username,
        config=_config_files(options, caller),
        tunnel=jump,
        proxy_command=_proxy_command(settings, caller),
        client_factory=lambda: _HostKeyWitness(attempt, known),
        known_hosts=known,
        server_host_key_algs=_host_key_algorithms(settings, known),
        client_keys=attempt.identities.pairs or None,
        agent_path=None,
        agent_forwarding=False,
        x11_forwarding=False,
        request_pty=False,
        encryption_algs=() if settings.config.get("Ciphers") else CIPHERS,
        compression_algs=["none"],
        connect_timeout=attempt.timeout_s,
        login_timeout=attempt.timeout_s,
        keepalive_interval=options.keepalive_interval_s,
        keepalive_count_max=options.keepalive_count_max,
        utf8_decode_errors="replace",
    )


def _config_files(options: SshOptions, caller: Caller) -> list[Path]:
    if options.config is not None:
        return [options.config]
    own = next((file for home in caller.homes if (file := home / ".ssh" / "config").is_file()), None)
    return [file for file in (own, SYSTEM_CONFIG) if file is not None and os.access(file, os.R_OK)]


def _read_settings(
    destination: Destination, options: SshOptions, caller: Caller
) -> asyncssh.SSHClientConnectionOptions:
    """What the config says for this destination; no key is loaded here."""
    try:
        return asyncssh.SSHClientConnectionOptions(
            host=destination.host,
            port=() if destination.port is None else destination.port,
            username=destination.user or (),
            config=_config_files(options, caller),
            client_keys=None,
            agent_path=None,
            agent_forwarding=False,
        )
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"ssh configuration: {error}", hint="ssh -G HOST shows what ssh makes of it") from error


async def _collect(settings: asyncssh.SSHClientConnectionOptions, options: SshOptions, caller: Caller) -> Identities:
    config = settings.config
    named = config.get("IdentityFile", ())
    files = [Path(str(name)).expanduser() for name in named] if isinstance(named, list) else []
    if not files and not options.identity_files:
        files = [home / ".ssh" / name for home in caller.homes for name in DEFAULT_NAMES]
    agent = config.get("IdentityAgent", ())
    socket_path = str(Path(agent).expanduser()) if isinstance(agent, str) and agent != "SSH_AUTH_SOCK" else None
    return await collect_identities(
        options.identity_files, files, caller.agent_socket if agent in ((), "SSH_AUTH_SOCK") else socket_path,
        agent_keys_too=not config.get("IdentitiesOnly", False),
    )  # fmt: skip


def _known_hosts_files(
    settings: asyncssh.SSHClientConnectionOptions, options: SshOptions, caller: Caller
) -> list[Path]:
    """Files with known hosts; the first is the one that a person would add to. They need not exist."""
    if options.known_hosts is not None:
        return [options.known_hosts]
    named = settings.config.get("UserKnownHostsFile", ())
    user = [Path(str(name)).expanduser() for name in named] if isinstance(named, list) else []
    system = settings.config.get("GlobalKnownHostsFile", ())
    return [
        *(user or [home / ".ssh" / "known_hosts" for home in caller.homes]),
        *([Path(str(name)) for name in system] if isinstance(system, list) else [SYSTEM_KNOWN_HOSTS]),
    ]


def _read_known_hosts(files: Sequence[Path]) -> asyncssh.SSHKnownHosts:
    known = asyncssh.SSHKnownHosts()
    for file in files:
        try:
            known.load(file.read_text(errors="replace"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{file}: is not a known_hosts file: {error}") from error
    return known


def _host_key_algorithms(settings: asyncssh.SSHClientConnectionOptions, known: asyncssh.SSHKnownHosts) -> Sequence[str]:
    """Known keys' algorithms first, then all others: asyncssh alone would offer only the known ones, and a host that
    has none of them would just hang up instead of showing its new key."""
    name = settings.host_key_alias or settings.host
    port = None if settings.port == SSH_PORT else settings.port
    keys, authorities = known.match(name, "", port)[:2]
    if settings.config.get("HostKeyAlgorithms") or not (keys or authorities):
        return ()
    first = [algorithm for key in keys for algorithm in key.sig_algorithms]
    certificates = get_default_certificate_algs() if authorities else []
    return [name.decode() for name in dict.fromkeys([*certificates, *first, *get_default_public_key_algs()])]


def _timeout_s(settings: asyncssh.SSHClientConnectionOptions, options: SshOptions) -> float:
    if options.connect_timeout_s is not None:
        return options.connect_timeout_s
    configured = settings.config.get("ConnectTimeout")
    return float(configured) if isinstance(configured, int) and configured > 0 else 15.0


def _proxy_command(settings: asyncssh.SSHClientConnectionOptions, caller: Caller) -> Sequence[str]:
    """ProxyCommand is the caller's to choose, so under sudo it runs with the caller's rights, not with root's."""
    command = settings.proxy_command
    words = command.split() if isinstance(command, str) else list(command or ())
    if not words or not caller.under_sudo:
        return words
    group = pwd.getpwnam(caller.name).pw_gid
    return ["setpriv", f"--reuid={caller.name}", f"--regid={group}", "--init-groups", "--", *words]


async def _connect_jump_hosts(
    settings: asyncssh.SSHClientConnectionOptions, destination: Destination, options: SshOptions, caller: Caller,
    stack: AsyncExitStack, on_the_way_to: tuple[str, ...],
) -> asyncssh.SSHClientConnection | None:  # fmt: skip
    """ProxyJump: the last jump host's connection. A host that we are on the way to is never a jump for itself."""
    if not isinstance(settings.tunnel, str):
        return None
    beyond = (*on_the_way_to, destination.host)
    hops = [parse_destination(hop.removeprefix("ssh://")) for hop in settings.tunnel.split(",")]
    if any(hop.host in beyond for hop in hops):
        return None
    last = None
    for hop in hops:
        last = await connect(hop, options, caller, stack, via=last, on_the_way_to=beyond)
    return last


async def close_connection(connection: asyncssh.SSHClientConnection) -> None:
    """Close and wait, but not long: a dead peer must not hold us."""
    connection.close()
    try:
        async with asyncio.timeout(CLOSE_WITHIN_S):
            await connection.wait_closed()
    except TimeoutError:
        connection.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await connection.wait_closed()
