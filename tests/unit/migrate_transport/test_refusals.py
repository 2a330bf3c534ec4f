"""Every way of not getting a connection has its own error, says which host, and hints at what to do."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.errors import MigrateError, UsageError
from migrate.errors import AuthenticationFailed, HostKeyChanged, HostKeyUnknown, HostUnreachable, TransportError
from migrate.transport.connect import SshOptions
from migrate.transport.destination import Destination
from migrate.transport.session import open_session
from tests.unit.migrate_transport.running import run
from tests.unit.migrate_transport.sshd import Server, free_port, kill, known_hosts_line, make_key, run_sshd
from tests.waiting import wait_until


def refused(server: Server, options: SshOptions | None = None, destination: Destination | None = None) -> MigrateError:
    """The error that open_session ends with."""

    async def attempt() -> None:
        async with open_session(
            destination or server.destination, options or server.options(), caller=server.caller
        ):  # fmt: skip
            raise AssertionError("connected")

    with pytest.raises(MigrateError) as caught:
        run(attempt())
    assert caught.value.hint
    return caught.value


def test_a_port_where_nobody_listens(server: Server) -> None:
    port = free_port()
    error = refused(server, destination=Destination(None, "127.0.0.1", port))
    assert isinstance(error, HostUnreachable)
    assert error.message == f"127.0.0.1 port {port}: connection refused"


def test_every_address_of_a_name_refuses(server: Server) -> None:
    error = refused(server, destination=Destination(None, "localhost", free_port()))
    assert isinstance(error, HostUnreachable)
    assert "connection refused" in error.message


def test_a_name_that_does_not_resolve(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = refused(server, destination=Destination(None, "host-x", None))
    assert isinstance(error, HostUnreachable)
    assert error.message == "host-x: the name host-x cannot be resolved: Name or service not known"


def test_a_host_that_never_answers_is_given_up_in_time(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = refused(
            server, SshOptions(connect_timeout_s=0.3), Destination(None, "127.0.0.1", silent.getsockname()[1])
        )
    assert isinstance(error, HostUnreachable)
    assert "no answer within 0.3 s" in error.message


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-1.5-old\r\n"])
def test_a_port_without_ssh(server: Server, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        error = refused(server, destination=Destination(None, "127.0.0.1", other.getsockname()[1]))
        thread.join(10)
    assert isinstance(error, HostUnreachable)
    assert "before the login" in error.message


@pytest.mark.parametrize("known", ["", "# nothing\n", "elsewhere ssh-ed25519 AAAA\n"])
def test_an_unknown_host_key_names_the_key_and_how_to_add_it(server: Server, known: str) -> None:
    server.know(known)
    error = refused(server)
    assert isinstance(error, HostKeyUnknown)
    assert "ssh-ed25519 SHA256:" in error.message
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {server.known_hosts}" in (error.hint or "")


def test_no_known_hosts_file_and_no_checking_in_the_config_are_still_strict(server: Server) -> None:
    server.known_hosts.unlink()
    (server.home / ".ssh" / "config").write_text("StrictHostKeyChecking no\nUserKnownHostsFile none\n")
    assert isinstance(refused(server), HostKeyUnknown)


def test_a_known_hosts_file_of_ones_own_is_the_only_one(server: Server, tmp_path: Path) -> None:
    options = dataclasses.replace(server.options(), known_hosts=tmp_path / "other")
    error = refused(server, options)
    assert isinstance(error, HostKeyUnknown)
    assert str(tmp_path / "other") in error.message


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_changed_host_key_shows_both_and_how_to_forget_the_old(server: Server, tmp_path: Path, kind: str) -> None:
    old = make_key(tmp_path / "old", kind=kind)
    server.know(known_hosts_line(server.port, old.with_suffix(".pub")))
    error = refused(server)
    assert isinstance(error, HostKeyChanged)
    assert error.message.count("SHA256:") == 2
    assert f"-R '[127.0.0.1]:{server.port}'" in (error.hint or "")


def test_the_key_of_another_port_does_not_make_it_changed(server: Server, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    server.know(f"127.0.0.1 {other.with_suffix('.pub').read_text()}")
    assert isinstance(refused(server), HostKeyUnknown)


def test_a_revoked_host_key_is_never_taken(server: Server) -> None:
    line = known_hosts_line(server.port, server.folder / "host_key.pub")
    server.know(f"{line}@revoked {line}")
    error = refused(server)
    assert isinstance(error, HostKeyChanged)
    assert "revoked" in error.message


def test_a_broken_known_hosts_file_is_named(server: Server) -> None:
    server.know("one-word\n")
    with pytest.raises(UsageError, match="is not a known_hosts file"):
        run(enter(server, server.options()))


async def enter(server: Server, options: SshOptions) -> None:
    async with open_session(server.destination, options, caller=server.caller):
        pass


def test_a_key_that_is_not_accepted_is_named_with_the_state_of_the_agent(server: Server, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    (server.home / ".ssh" / "id_ed25519").unlink()
    error = refused(server, dataclasses.replace(server.options(), identity_files=(wrong,)))
    assert isinstance(error, AuthenticationFailed)
    assert f"{wrong} (ssh-ed25519 SHA256:" in error.message
    assert "no SSH agent" in error.message
    assert f"{server.user}@127.0.0.1" in error.message


def test_no_key_at_all_says_what_was_left_out(server: Server) -> None:
    key = server.home / ".ssh" / "id_ed25519"
    key.unlink()
    key.with_suffix(".pub").unlink()
    make_key(server.home / ".ssh" / "id_rsa", kind="rsa", passphrase="secret")
    error = refused(server)
    assert isinstance(error, AuthenticationFailed)
    assert "there was no key to try" in error.message
    assert f"left out: {server.home}/.ssh/id_rsa (has a passphrase)" in error.message


def test_too_many_keys_are_an_authentication_failure(tmp_path: Path) -> None:
    with run_sshd(tmp_path, "MaxAuthTries 1\n") as server:
        keys = tuple(make_key(tmp_path / f"wrong{number}") for number in range(3))
        error = refused(server, dataclasses.replace(server.options(), identity_files=keys))
    assert isinstance(error, AuthenticationFailed)
    assert "after too many keys" in error.message


@pytest.mark.parametrize(
    ("content", "expected", "says"),
    [(None, UsageError, "cannot be read"), ("nonsense", AuthenticationFailed, "is not a private key")],
)
def test_a_key_file_that_is_none(
    server: Server, tmp_path: Path, content: str | None, expected: type[MigrateError], says: str
) -> None:
    key = tmp_path / "key"
    if content is not None:
        key.write_text(content)
    error = refused(server, dataclasses.replace(server.options(), identity_files=(key,)))
    assert isinstance(error, expected)
    assert str(key) in error.message
    assert says in error.message


def test_a_protected_key_file_asks_for_an_agent(server: Server, tmp_path: Path) -> None:
    key = make_key(tmp_path / "protected", passphrase="secret")
    error = refused(server, dataclasses.replace(server.options(), identity_files=(key,)))
    assert isinstance(error, AuthenticationFailed)
    assert "ssh-add" in (error.hint or "")


def test_a_config_that_cannot_be_parsed_names_the_line(server: Server) -> None:
    (server.home / ".ssh" / "config").write_text("Host x\n\nPort many\n" + "Host *\nPort many\n")
    error = refused(server)
    assert isinstance(error, UsageError)
    assert "config line" in error.message


def test_no_common_cipher_is_said(tmp_path: Path) -> None:
    with run_sshd(tmp_path, "Ciphers aes256-ctr\n") as server:
        (server.home / ".ssh" / "config").write_text("Ciphers aes128-ctr\n")
        # Both sides find it out at once: where the server's hanging up is heard first, it is all that is known.
        error = wait_until(lambda: said if "closed" not in (said := refused(server)).message else None, "it is said")
    assert isinstance(error, TransportError)
    assert "no common algorithm" in error.message


@contextmanager
def running_agent(folder: Path) -> Iterator[Path]:
    """An ssh-agent, empty."""
    path = folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(path), "the agent listens")
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def _listens(path: Path) -> bool:
    """It has bound its socket before it listens."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def add_to_agent(agent: Path, key: Path) -> None:
    subprocess.run(
        ["ssh-add", "-q", str(key)], env={**os.environ, "SSH_AUTH_SOCK": str(agent)}, check=True, timeout=20
    )  # fmt: skip


def test_an_empty_agent_and_a_dead_agent_are_told_apart(server: Server, tmp_path: Path) -> None:
    (server.home / ".ssh" / "id_ed25519").unlink()

    async def attempt(agent: Path) -> None:
        caller = dataclasses.replace(server.caller, agent_socket=str(agent))
        async with open_session(server.destination, server.options(), caller=caller):
            pass

    with running_agent(tmp_path) as agent, pytest.raises(AuthenticationFailed, match="agent is empty"):
        run(attempt(agent))
    with pytest.raises(AuthenticationFailed, match="does not answer"):
        run(attempt(tmp_path / "gone"))


def test_a_key_in_the_agent_opens_the_door(server: Server, tmp_path: Path) -> None:
    key = server.home / ".ssh" / "id_ed25519"

    async def attempt(agent: Path, options: SshOptions) -> str:
        caller = dataclasses.replace(server.caller, agent_socket=str(agent))
        async with open_session(server.destination, options, caller=caller) as session:
            return session.peer_address

    with running_agent(tmp_path) as agent:
        add_to_agent(agent, key)
        moved = tmp_path / "moved"
        shutil.move(key, moved)
        assert run(attempt(agent, server.options())) == "127.0.0.1"
        # A protected file given with -i is served by the agent's copy of the same key.
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-P", "", "-f", str(moved)], check=True, timeout=20)
        shutil.copy(key.with_suffix(".pub"), tmp_path / "moved.pub")
        options = dataclasses.replace(server.options(), identity_files=(moved,))
        assert run(attempt(agent, options)) == "127.0.0.1"


def test_a_server_that_dies_during_the_login_is_unreachable_not_a_traceback(server: Server) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    threading.Timer(0.3, kill, [[server.pid]]).start()
    assert isinstance(refused(server, dataclasses.replace(server.options(), connect_timeout_s=5)), HostUnreachable)
