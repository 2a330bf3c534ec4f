"""A directory that holds a few Debian packages and what they depend on, copied from this machine, and nothing else."""

import re
import subprocess
from pathlib import Path

FORMAT = "${Package}\t${Essential}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def closure(wanted: list[str]) -> list[str]:
    """`wanted`, the essential packages, and everything that they need, as this machine's dpkg knows it."""
    rows = [line.split("\t") for line in _output(["dpkg-query", "-W", "-f", FORMAT]).splitlines()]
    needs = {name: _names(depends) for name, _essential, _provides, depends in rows}
    offered = {given: name for name, _, provides, _ in rows for [given] in _names(provides)}
    found: list[str] = []
    waiting = [*wanted, *(name for name, essential, _, _ in rows if essential == "yes")]
    while waiting:
        name = waiting.pop()
        name = name if name in needs else offered.get(name, "")
        if name and name not in found:
            found.append(name)
            for choice in needs[name]:
                waiting.append(next((one for one in choice if one in needs), choice[0]))
    return sorted(found)


def make_root(root: Path, wanted: list[str]) -> list[str]:
    """Fill `root`, with a dpkg database that knows what is in it; the names of the packages."""
    for link, target in LINKS.items():
        (root / target).mkdir(parents=True)
        (root / link).symlink_to(target)
    names = closure(wanted)
    known = _output(["dpkg", "-L", *names]).splitlines()
    files = sorted({line for line in known if line.startswith("/") and Path(line).exists() and not _is_folder(line)})
    kept = [name for name in files if not name.startswith(("/usr/share/doc", "/usr/share/locale", "/usr/share/man"))]
    copy = 'tar -c -C / --null --no-recursion -T - | tar -x --keep-directory-symlink -C "$0"'
    listed = "".join(f"{name.lstrip('/')}\0" for name in kept)
    subprocess.run(["sh", "-c", copy, str(root)], input=listed, text=True, check=True, timeout=300)
    state = root / "var/lib/dpkg"
    for folder in (state / "info", state / "updates", root / "tmp", root / "proc", root / "dev", root / "run"):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "status").write_text(_output(["dpkg-query", "-s", *names]))
    for name in names:
        for suffix in ("list", "md5sums"):
            for source in Path("/var/lib/dpkg/info").glob(f"{name}*.{suffix}"):
                if re.fullmatch(rf"{re.escape(name)}(:\w+)?\.{suffix}", source.name):
                    (state / "info" / source.name).write_bytes(source.read_bytes())
    return names


def _is_folder(name: str) -> bool:
    path = Path(name)
    return path.is_dir() and not path.is_symlink()


def _names(text: str) -> list[list[str]]:
    """`a (>= 1), b | c` → [[a], [b, c]]."""
    choices = [part for part in text.split(",") if part.strip()]
    return [[re.split(r"[\s(:]", one.strip())[0] for one in choice.split("|")][:9] for choice in choices]


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=100).stdout
