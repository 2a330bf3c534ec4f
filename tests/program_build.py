"""Finds the programs in tests/programs, builds the C ones once for each content, and runs them.

A `.c` or `.py` file dropped there is a test; nothing registers it. Its first line says what it claims, then come lines
of metadata: `cflags:`, `args:` (after the directory), `requires:` (CPU flags as in /proc/cpuinfo, or CONDITIONS),
`dump:` (options that it has to be dumped with),
`tags:` (`live`: busy all the time, `forking`: its PIDs change), `later:` (the object it holds that is not carried yet).
"""

import ctypes
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from core import DumpOptions, FileChoices
from tests.huge_pages import has_huge_pages
from tests.waiting import wait_until

DIRECTORY = Path(__file__).with_name("programs")
BUILD = Path(__file__).resolve().parents[1] / "build" / "programs"
COMPILE = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
LONGEST_DIRECTORY = 100  # the path of a UNIX socket in it has to fit into 108 bytes
SUPPORT = {"check.py"}
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
METADATA = re.compile(r"(?://|#) (cflags|args|requires|dump|tags|later): (.*)")
CONDITIONS: dict[str, Callable[[], bool]] = {
    "root": lambda: os.geteuid() == 0,
    "ipv6": lambda: Path("/proc/net/if_inet6").exists() and "00000001 01" in Path("/proc/net/if_inet6").read_text(),
    "huge-pages": has_huge_pages,
    "mseal": lambda: ctypes.CDLL(None).syscall(462, None, 0, 0) == 0,
    "static-libc": lambda: Path(libc_archive()).is_absolute(),
}

Launch = Callable[[list[str]], "subprocess.Popen[bytes] | int"]


@dataclass(frozen=True, slots=True)
class Program:
    """One program: what its first lines say of it."""

    path: Path
    claim: str
    cflags: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    requires: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    later: str = ""
    dump: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def dump_options(self) -> DumpOptions:
        """What it is to be dumped with."""
        names = {"--file-locks": "file_locks", "--link-remap": "link_remap", "--ext-unix-sk": "ext_unix_sk"}
        return DumpOptions(files=FileChoices(**{names[word]: True for word in self.dump}))

    def cpu_lacks(self) -> list[str]:
        """CPU flags it requires that this machine has not: nothing to be installed, so no test here."""
        return sorted(self.requires - set(CONDITIONS) - cpu_flags())

    def missing(self) -> list[str]:
        """Conditions it requires that do not hold: a skip should name them."""
        return sorted(word for word in self.requires & set(CONDITIONS) if not CONDITIONS[word]())

    def build(self) -> list[str]:
        """The command without arguments, compiled when its text, a header or a flag changed."""
        if self.path.suffix == ".py":
            return [sys.executable, str(self.path)]
        command = [*COMPILE, *self.cflags]
        binary = BUILD / content_hash(self.path, command) / self.path.stem
        if not binary.exists():
            compile_into(binary, [*command, str(self.path)])
        return [str(binary)]

    def start(self, scratch_dir: Path, popen: "Launch | None" = None) -> "Run":
        """Start it for `scratch_dir` (made when absent); `popen` puts it elsewhere, e.g. `host.start`."""
        scratch_dir = scratch_dir.resolve()
        if len(str(scratch_dir)) > LONGEST_DIRECTORY:
            raise ValueError(f"{scratch_dir}: more than {LONGEST_DIRECTORY} characters")
        scratch_dir.mkdir(parents=True, exist_ok=True)
        started = (popen or start_here)([*self.build(), str(scratch_dir), *self.args])
        return Run(self, scratch_dir, None if isinstance(started, int) else started)


@dataclass(slots=True)
class Run:
    """A started program. Leaving the `with` block ends the process started here; a copy of it elsewhere is not ours.

    `process` is None when `popen` gave a PID only. Nothing but files of `scratch_dir` is asked for ready and result, so
    both work for a program that has moved meanwhile.
    """

    program: Program
    scratch_dir: Path
    process: "subprocess.Popen[bytes] | None" = None
    pid: int = field(default=0, init=False)

    def wait_ready(self, deadline_s: float = 20) -> int:
        """Its PID as it sees it itself, when its state is prepared; AssertionError with the reason when it fails."""
        wait_until(lambda: self._exists("ready", "result") or self._ended(), f"{self} ready", deadline_s=deadline_s)
        if not self._exists("ready"):
            raise AssertionError(f"{self} before ready: {self._read_result()}")
        self.pid = int(self._read("ready"))
        return self.pid

    def release(self) -> None:
        """Let it check its state. Whatever was to happen to it has happened."""
        (self.scratch_dir / "go").touch()

    def result(self, deadline_s: float = 30) -> str:
        """PASS, or FAIL: and the reason. A program that ended without a word is an AssertionError."""
        wait_until(lambda: self._exists("result"), f"{self} result", deadline_s=deadline_s)
        return self._read("result")

    def early_result(self) -> str | None:
        """What it said already, e.g. a live one that failed on the way; None while all is well."""
        return self._read("result") if self._exists("result") else None

    def stop(self) -> None:
        """Kill and reap the process started here, whatever it does."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        return self.program.name

    def _exists(self, *names: str) -> bool:
        return any((self.scratch_dir / name).exists() for name in names)

    def _read(self, name: str) -> str:
        return (self.scratch_dir / name).read_text()

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _read_result(self) -> str:
        return self.early_result() or f"it ended with {self.process.poll() if self.process else None}"


def discover() -> list[Program]:
    """Every program that this CPU can run, by name."""
    return [program for program in discover_all() if not program.cpu_lacks()]


def discover_all() -> list[Program]:
    """Every program, also those for another CPU."""
    paths = sorted([*DIRECTORY.glob("*.c"), *DIRECTORY.glob("*.py")])
    return [parse_program(path, path.read_text()) for path in paths if path.name not in SUPPORT]


def find(name: str) -> Program:
    """The program in this file, e.g. `find("counter.c")`."""
    return parse_program(DIRECTORY / name, (DIRECTORY / name).read_text())


def parse_program(path: Path, text: str) -> Program:
    """A program from the comment lines at its top; ValueError without a claim."""
    mark = "# " if path.suffix == ".py" else "// "
    claim, *rest = text.splitlines() or [""]
    if not claim.startswith(mark) or METADATA.fullmatch(claim):
        raise ValueError(f"{path.name}: its first line does not say what it claims")
    found: dict[str, str] = {}
    for line in rest:
        if not (match := METADATA.fullmatch(line)):
            break
        found[match[1]] = match[2].strip()
    return Program(
        path,
        claim.removeprefix(mark),
        cflags=tuple(shlex.split(found.get("cflags", ""))),
        args=tuple(shlex.split(found.get("args", ""))),
        requires=frozenset(found.get("requires", "").split()),
        tags=frozenset(found.get("tags", "").split()),
        later=found.get("later", ""),
        dump=tuple(found.get("dump", "").split()),
    )


def sources_of(path: Path) -> list[Path]:
    """The file and what it includes from beside itself, each once, in a fixed order."""
    found = [path]
    for source in found:
        for name in INCLUDE.findall(source.read_text()):
            if (included := path.parent / name) not in found:
                found.append(included)
    return found


def content_hash(path: Path, command: list[str]) -> str:
    """Changes with every source, header and compiler flag."""
    digest = hashlib.sha256("\0".join(command).encode())
    for source in sources_of(path):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def compile_into(binary: Path, command: list[str]) -> None:
    """Run the compiler; the binary appears whole or not at all, and one that is there stays: it may be running."""
    binary.parent.mkdir(parents=True, exist_ok=True)
    temporary = binary.with_name(f".{binary.name}.{os.getpid()}")
    done = subprocess.run([*command, "-o", str(temporary)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise AssertionError(f"{binary.name}: does not compile\n{done.stderr}")
    with suppress(FileExistsError):
        os.link(temporary, binary)
    temporary.unlink()


def start_here(argv: list[str]) -> "subprocess.Popen[bytes]":
    """In a session of its own, in /, with stdio on /dev/null and a small environment: easy to be moved."""
    null = subprocess.DEVNULL
    return subprocess.Popen(
        argv, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/", env=ENVIRONMENT
    )  # fmt: skip


def cpu_flags() -> set[str]:
    """What the first CPU can do, in the kernel's words."""
    match = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(match[1].split()) if match else set()


def libc_archive() -> str:
    """Where the compiler finds the static library; the bare name when it does not."""
    argv = ["gcc", "-print-file-name=libc.a"]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
