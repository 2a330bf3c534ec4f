"""Whose SSH we use: under sudo the caller's home, name and agent, not root's. It opens nothing but /proc and passwd."""

import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ReadEnviron = Callable[[int], tuple[int, Mapping[str, str]]]  # pid → (parent pid, environment)

_PARENTS_AT_MOST = 16


@dataclass(frozen=True, slots=True)
class Caller:
    """The person whose keys, config, known_hosts and agent count. `own_home`: root's, under sudo, looked at second."""

    name: str
    home: Path
    agent_socket: str | None
    under_sudo: bool = False
    own_home: Path | None = None
    notices: tuple[str, ...] = ()

    @property
    def homes(self) -> tuple[Path, ...]:
        """Homes whose ~/.ssh counts, most important first."""
        return (self.home,) if self.own_home in (None, self.home) else (self.home, Path(str(self.own_home)))


def find_caller(environ: Mapping[str, str], *, euid: int, read_environ: ReadEnviron | None = None) -> Caller:
    """The caller by `environ` (ours): of sudo when there is one, else we ourselves."""
    behind_sudo = _behind_sudo(environ) if euid == 0 else None
    if behind_sudo is None:
        return _ourselves(environ, euid)
    agent, agent_notice = _agent_behind_sudo(environ, behind_sudo, read_environ or read_parent_and_environ)
    return Caller(
        behind_sudo.pw_name, Path(behind_sudo.pw_dir), agent, under_sudo=True, own_home=Path(pwd.getpwuid(0).pw_dir),
        notices=(
            f"running under sudo: using the keys, config and known_hosts of {behind_sudo.pw_name} in "
            f"{behind_sudo.pw_dir}/.ssh, then root's own",
            agent_notice,
        ),
    )  # fmt: skip


def _ourselves(environ: Mapping[str, str], euid: int) -> Caller:
    try:
        name, home = pwd.getpwuid(euid).pw_name, pwd.getpwuid(euid).pw_dir
    except KeyError:  # a container's made-up user
        name, home = environ.get("LOGNAME", str(euid)), "/"
    return Caller(name, Path(environ.get("HOME") or home), environ.get("SSH_AUTH_SOCK"))


def _behind_sudo(environ: Mapping[str, str]) -> pwd.struct_passwd | None:
    uid = environ.get("SUDO_UID", "")
    if not uid.isdecimal() or int(uid) == 0:
        return None
    try:
        return pwd.getpwuid(int(uid))
    except KeyError:
        return None


def _agent_behind_sudo(
    environ: Mapping[str, str], caller: pwd.struct_passwd, read_environ: ReadEnviron
) -> tuple[str | None, str]:
    """The agent's socket and what to say about it: sudo strips SSH_AUTH_SOCK, its own environment still has it."""
    places = [("our environment", environ), *_parents(read_environ)]
    for place, variables in places:
        path = variables.get("SSH_AUTH_SOCK")
        if path and _is_socket_of(path, caller.pw_uid):
            return path, f"running under sudo: using the SSH agent of {caller.pw_name} ({path}, found in {place})"
    return None, (
        f"running under sudo: no SSH agent of {caller.pw_name} found: SSH_AUTH_SOCK is in the environment of no "
        "parent process (sudo --preserve-env=SSH_AUTH_SOCK keeps it)"
    )


def _parents(read_environ: ReadEnviron) -> Iterator[tuple[str, Mapping[str, str]]]:
    pid = os.getppid()
    for _ in range(_PARENTS_AT_MOST):
        if pid <= 1:
            return
        try:
            parent, environ = read_environ(pid)
        except OSError:
            return
        yield f"the environment of process {pid}", environ
        pid = parent


def _is_socket_of(path: str, uid: int) -> bool:
    """Never an agent of somebody else: the environment of a parent is only a hint."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == uid


def read_parent_and_environ(pid: int) -> tuple[int, Mapping[str, str]]:
    """Parent and starting environment of process `pid`."""
    process = Path("/proc", str(pid))
    after_name = process.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()
    pairs = process.joinpath("environ").read_bytes().decode(errors="surrogateescape").split("\0")
    return int(after_name[1]), dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@contextmanager
def as_caller(caller: Caller) -> Iterator[None]:
    """HOME and the user name are the caller's inside. asyncssh expands ~ and %u by them and takes no parameter."""
    ours = {"HOME": str(caller.home), "LOGNAME": caller.name, "USER": caller.name}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
