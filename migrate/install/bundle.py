"""This installation as an archive: our packages, every distribution they need, and install.sh to unpack it.

What is packed is what runs here, file by file, so that the other host gets the same versions without any index.
"""

import gzip
import hashlib
import platform
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import core
import migrate
from migrate.errors import InstallError

NAME: Final = "migrate"
OURS: Final = (core, migrate)
NEVER: Final = frozenset({"__pycache__", "build"})
OF_OURS: Final = ("METADATA", "entry_points.txt")  # what is kept of our own dist-info
INSTALLER: Final = Path(__file__).with_name("install.sh")
COMPILED: Final = 1.4  # what the installation takes there, with its byte code, over what is packed


@dataclass(frozen=True)
class Bundle:
    """What is to be packed: names below site-packages with where they are, or with their content."""

    version: str
    files: dict[str, Path | bytes]

    @cached_property
    def id(self) -> str:
        """The version and a digest over all files: the same id is the same program."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name}\0{len(self._read(name))}\0".encode() + self._read(name))
        return f"{self.version}-{digest.hexdigest()[:12]}"

    @property
    def manifest(self) -> str:
        """What install.sh has to know before it unpacks: NAME=VALUE lines."""
        size = sum(len(found) if isinstance(found, bytes) else found.stat().st_size for found in self.files.values())
        facts = {
            "id": self.id,
            "python": "{}.{}".format(*sys.version_info[:2]),
            "machine": platform.machine(),
            "kilobytes": str(int(size * COMPILED) >> 10),
        }
        return "".join(f"{name}={value}\n" for name, value in facts.items())

    def write(self, file: IO[bytes]) -> None:
        """The archive (tar.gz): manifest, install.sh, lib/…; the same files make the same bytes."""
        with (
            gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            _add(archive, "manifest", self.manifest.encode())
            _add(archive, "install.sh", INSTALLER.read_bytes(), 0o755)
            for name in sorted(self.files):
                _add(archive, f"lib/{name}", self._read(name), 0o755 if _is_executable(self.files[name]) else 0o644)

    def _read(self, name: str) -> bytes:
        found = self.files[name]
        return found if isinstance(found, bytes) else found.read_bytes()


def collect_bundle() -> Bundle:
    """This installation; InstallError when something that it needs is missing here."""
    own = _find(NAME)
    files: dict[str, Path | bytes] = dict(_our_files(own))
    for needed in _needed_by(own):
        for file in needed.files or ():
            path = Path(str(needed.locate_file(file)))
            if ".." not in file.parts and not NEVER.intersection(file.parts[-2:-1]) and path.is_file():
                files[str(file)] = path
    return Bundle(own.version, files)


def _our_files(own: Distribution) -> Iterator[tuple[str, Path | bytes]]:
    """Our packages as they are imported here, from a checkout or from an installation."""
    for package in OURS:
        top = Path(str(package.__file__)).parent
        for path in sorted(top.rglob("*")):
            parts = path.relative_to(top.parent).parts
            if path.is_file() and not NEVER.intersection(parts):
                yield "/".join(parts), path
    for name in OF_OURS:
        if text := own.read_text(name):
            yield f"{NAME}-{own.version}.dist-info/{name}", text.encode()


def _needed_by(own: Distribution) -> list[Distribution]:
    """All distributions that it needs, directly or not. One that is only for another system need not be here."""
    found: dict[str, Distribution] = {NAME: own}
    waiting = [own]
    while waiting:
        for requirement in waiting.pop().requires or ():
            name, _, condition = requirement.partition(";")
            name = re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name.strip())[0]).lower()
            if name in found or "extra ==" in condition:
                continue
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                if condition:
                    continue
                raise InstallError(f"Python package {name}: is needed and not installed here") from None
            waiting.append(found[name])
    return [each for name, each in found.items() if name != NAME]


def _find(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise InstallError(
            f"Python package {name}: is not installed, only its files are there", hint="`make build` installs it"
        ) from error


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, BytesIO(content))


def _is_executable(found: Path | bytes) -> bool:
    return isinstance(found, Path) and bool(found.stat().st_mode & 0o100)
