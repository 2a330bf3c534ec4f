"""Debian packages without installing them: apt with lists of its own, unpacked by dpkg -x."""

import subprocess
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org"
SOURCES = (
    f"deb [signed-by={KEYRING}] {MIRROR}/debian bookworm main",
    f"deb [signed-by={KEYRING}] {MIRROR}/debian-security bookworm-security main",
    f"deb [signed-by={KEYRING}] {MIRROR}/debian bookworm-backports main",
)


def command(argv: list[str], *, cwd: Path | None = None, timeout_s: float = 1200, input_text: str = "") -> str:
    """Run to the end; its output. A failure is an AssertionError that shows both."""
    done = subprocess.run(argv, cwd=cwd, input=input_text, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Packages:
    """Packages of Debian 12 and its backports, downloaded below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "sources.list").write_text("\n".join(SOURCES) + "\n")
        self._apt("update")

    def _apt(self, *arguments: str, tool: str = "apt-get", cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc::sourcelist": self._folder / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": self._folder / "lists", "Dir::Cache::archives": self._folder / "archives",
            "APT::Sandbox::User": "root", "Acquire::Retries": 3,
        }  # fmt: skip
        quiet = ["-qq"] if tool == "apt-get" else []
        return command([tool, *quiet, *(f"-o{key}={value}" for key, value in options.items()), *arguments], cwd=cwd)

    def unpack(self, package: str, target: Path) -> None:
        """The package alone; one that is nothing but a dependency on another gives that one."""
        depends = self._apt("depends", package, tool="apt-cache").splitlines()
        real = [line.split()[-1] for line in depends if line.strip().startswith(f"Depends: {package.split('-')[0]}")]
        folder = self._folder / f"one-{package}"
        folder.mkdir()
        self._apt("download", *(real or [package]), cwd=folder)
        unpack_all(folder, target)

    def unpack_with_dependencies(self, package: str, target: Path, release: str) -> None:
        """The package of a release, with what of its dependencies the machine has not installed."""
        self._apt("-y", "install", "--no-install-recommends", "--download-only", "--reinstall", "-t", release, package)
        unpack_all(self._folder / "archives", target)


def unpack_all(folder: Path, target: Path) -> None:
    """Every package file of a folder."""
    target.mkdir(parents=True, exist_ok=True)
    for package in sorted(folder.glob("*.deb")):
        command(["dpkg", "-x", str(package), str(target)])
