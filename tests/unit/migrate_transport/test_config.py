"""What ~/.ssh/config says is done, also when it is the home of the caller of sudo."""

import os
import pwd
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from migrate.errors import TransportError
from migrate.transport.caller import Caller
from migrate.transport.destination import Destination
from migrate.transport.session import open_session
from tests.requires import require_root
from tests.unit.migrate_transport.running import run
from tests.unit.migrate_transport.sshd import Server


def address_with_config(server: Server, host: str, config: str) -> str:
    (server.home / ".ssh" / "config").write_text(config)

    async def talk() -> str:
        destination = Destination(None, host, None)
        async with open_session(destination, server.options("cat"), caller=server.caller) as session:
            await session.start([])
            return session.peer_address

    return run(talk())


def test_the_config_gives_alias_port_user_key_and_known_hosts(server: Server) -> None:
    ssh = server.home / ".ssh"
    (ssh / "id_ed25519").rename(ssh / "elsewhere")
    server.known_hosts.rename(ssh / "hosts")
    config = (
        f"Host box\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n"
        " IdentityFile ~/.ssh/not-there\n IdentityFile ~/.ssh/elsewhere\n UserKnownHostsFile ~/.ssh/hosts\n"
        " RequestTTY force\n RemoteCommand false\n ForwardAgent yes\n Compression yes\n"
    )
    assert address_with_config(server, "box", config) == "127.0.0.1"


@pytest.mark.parametrize("jump", ["ProxyJump gate", "ProxyJump gate,gate2"])
def test_a_jump_host_is_gone_through_and_a_pattern_that_matches_itself_does_not_loop(server: Server, jump: str) -> None:
    common = f" HostName 127.0.0.1\n Port {server.port}\n"
    config = f"Host box\n{common}Host gate gate2\n{common}Host *\n {jump}\n"
    assert address_with_config(server, "box", config)


# asyncssh kills the proxy when the connection ends and does not wait for it: Popen complains when it goes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_proxy_command_is_run(server: Server) -> None:
    script = (
        "import os, socket, sys, threading; s = socket.create_connection(('%h', %p))\n"
        "def up():\n"
        " while b := os.read(0, 65536): s.sendall(b)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while b := s.recv(65536): os.write(1, b)\n"
    )
    path = server.folder / "proxy.py"
    path.write_text(script.replace("'%h', %p", "sys.argv[1], int(sys.argv[2])"))
    config = f"Host box\n HostName 127.0.0.1\n Port {server.port}\n ProxyCommand {sys.executable} {path} %h %p\n"
    assert address_with_config(server, "box", config)


def test_under_sudo_the_callers_files_are_used_and_the_session_says_so(server: Server) -> None:
    caller = Caller(
        server.user, server.home, None, under_sudo=True, own_home=Path("/nonexistent"), notices=("running under sudo",)
    )

    async def talk() -> list[str]:
        async with open_session(server.destination, server.options(), caller=caller) as session:
            return session.notices

    assert run(talk()) == ["running under sudo"]


def test_under_sudo_roots_own_files_come_second(server: Server, tmp_path: Path) -> None:
    caller = Caller(server.user, tmp_path / "empty", None, under_sudo=True, own_home=server.home)

    async def talk() -> str:
        async with open_session(server.destination, server.options(), caller=caller) as session:
            return session.peer_address

    assert run(talk()) == "127.0.0.1"


def test_under_sudo_a_proxy_command_runs_as_the_caller(server: Server) -> None:
    require_root()
    caller = Caller("nobody", server.home, None, under_sudo=True)

    async def talk() -> None:
        with pytest.raises(TransportError):
            async with open_session(server.destination, server.options(), caller=caller):
                pass

    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        (server.home / ".ssh" / "config").write_text(f"ProxyCommand sh -c 'id -u > {folder}/uid'\n")
        run(talk())
        assert (Path(folder) / "uid").read_text().strip() == str(pwd.getpwnam("nobody").pw_uid)
