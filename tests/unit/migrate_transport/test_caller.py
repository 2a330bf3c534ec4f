import os
import pwd
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from migrate.transport.caller import as_caller, find_caller, read_parent_and_environ
from tests.requires import require_root

NOBODY = pwd.getpwnam("nobody")
SUDO = {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_USER": "nobody", "HOME": "/root"}


def no_parent(pid: int) -> tuple[int, Mapping[str, str]]:
    raise ProcessLookupError(pid)


def test_without_sudo_the_environment_counts() -> None:
    caller = find_caller({"HOME": "/somewhere", "SSH_AUTH_SOCK": "/agent"}, euid=os.geteuid())
    assert (caller.home, caller.agent_socket, caller.notices) == (Path("/somewhere"), "/agent", ())
    assert caller.homes == (Path("/somewhere"),)


def test_a_user_without_a_passwd_entry_still_has_a_name() -> None:
    assert find_caller({"LOGNAME": "made-up", "HOME": "/h"}, euid=3_999_999).name == "made-up"


def test_under_sudo_name_and_home_are_the_callers_and_it_is_said() -> None:
    caller = find_caller(SUDO, euid=0, read_environ=no_parent)
    assert (caller.name, caller.home) == ("nobody", Path(NOBODY.pw_dir))
    assert caller.homes == (Path(NOBODY.pw_dir), Path(pwd.getpwuid(0).pw_dir))
    assert "nobody" in caller.notices[0]
    assert "no SSH agent" in caller.notices[1]


@pytest.mark.parametrize("uid", ["0", "", "x", "3999999"])
def test_sudo_from_root_or_from_nobody_we_know_changes_nothing(uid: str) -> None:
    caller = find_caller({"SUDO_UID": uid, "HOME": "/root"}, euid=0, read_environ=no_parent)
    assert (caller.under_sudo, caller.home) == (False, Path("/root"))


def test_sudo_variables_count_only_for_root() -> None:
    assert not find_caller(SUDO, euid=NOBODY.pw_uid, read_environ=no_parent).under_sudo


def agent_socket(path: Path, uid: int) -> str:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    os.chown(path, uid, -1)
    return str(path)


def test_an_agent_that_sudo_stripped_is_found_in_a_parents_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    monkeypatch.setattr(os, "getppid", lambda: 70)
    path = agent_socket(tmp_path / "agent", NOBODY.pw_uid)
    chain = {70: (71, {}), 71: (1, {"SSH_AUTH_SOCK": path})}
    caller = find_caller(SUDO, euid=0, read_environ=lambda pid: chain[pid])
    assert caller.agent_socket == path
    assert "found in the environment of process 71" in caller.notices[1]


def test_an_agent_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    require_root()
    path = agent_socket(tmp_path / "agent", 1)
    caller = find_caller({**SUDO, "SSH_AUTH_SOCK": path}, euid=0, read_environ=no_parent)
    assert caller.agent_socket is None


def test_our_own_parent_is_read_from_proc() -> None:
    parent, environ = read_parent_and_environ(os.getpid())
    assert parent == os.getppid()
    assert "PATH" in environ


def test_the_callers_home_counts_only_inside_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/before")
    monkeypatch.delenv("LOGNAME", raising=False)
    with as_caller(find_caller(SUDO, euid=0, read_environ=no_parent)):
        assert Path("~").expanduser() == Path(NOBODY.pw_dir)
        assert os.environ["LOGNAME"] == "nobody"
    assert os.environ["HOME"] == "/before"
    assert "LOGNAME" not in os.environ
