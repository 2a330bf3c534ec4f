"""What guests need of the product, as a directory they have at /srv/share: bin/migrate, its packages, test programs."""

import compileall
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import Distribution, distribution, requires
from pathlib import Path

from tests.program_build import find
from tests.roundtrip import dirty_exact, shared_exact, slow_writer

REPOSITORY = Path(__file__).resolve().parents[2]
SHARE = "/srv/share"
COMMAND = f"""\
#!/bin/sh
PYTHONPATH={SHARE}/site PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 -c '
import sys
from migrate.cli import main
sys.argv[0] = "migrate"
sys.exit(main())
' "$@"
"""
VARIANTS = {"-static": "-static", "-small": "-DPAGES=128UL"}  # what is added to a name → to the compiler's options
EXACTNESS = (
    "waiting.py", "huge_pages.py", "program_build.py", "roundtrip/targets.py", "roundtrip/dirty_exact.py",
    "roundtrip/shared_exact.py", "roundtrip/slow_writer.py",
)  # fmt: skip
REQUIREMENT = re.compile(r"[\w.-]+")


def fill_share(share: Path, programs: Iterable[str], scripts: Iterable[Path]) -> None:
    """The product; `programs`, by their files' names in tests/programs, or variants of them; and `scripts`."""
    site = share / "site"
    for package in ("core", "migrate"):
        shutil.copytree(REPOSITORY / package, site / package, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for found in runtime_distributions():
        copy_distribution(found, site)
    compileall.compile_dir(str(site), quiet=2, stripdir=str(share), prependdir=SHARE)
    (share / "bin").mkdir()
    (share / "bin/migrate").write_text(COMMAND)
    (share / "bin/migrate").chmod(0o755)
    (share / "programs").mkdir()
    for name in programs:
        copy_program(name, share / "programs")
    for script in scripts:
        shutil.copy(script, share / "bin" / script.name)


def add_exactness(share: Path) -> None:
    """What copies memory while programs store to it, and these programs."""
    for name in EXACTNESS:
        target = share / "site/tests" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "tests" / name, target)
    (share / "exact").mkdir()
    for source in (dirty_exact.SOURCE, shared_exact.SOURCE, shared_exact.HUGE_SOURCE, slow_writer.SOURCE):
        dirty_exact.build(share / "exact", source)


def runtime_distributions() -> list[Distribution]:
    """What `migrate` itself needs, and what that needs."""
    found: dict[str, Distribution] = {}
    todo = list(requires("migrate") or ())
    while todo:
        requirement = todo.pop()
        name = REQUIREMENT.match(requirement)
        if name is None or "extra ==" in requirement or name[0].lower() in found:
            continue
        try:
            found[name[0].lower()] = one = distribution(name[0])
        except ModuleNotFoundError:  # for other systems
            continue
        todo += one.requires or ()
    return list(found.values())


def copy_distribution(found: Distribution, site: Path) -> None:
    """Its files, as they are installed."""
    for file in found.files or ():
        source = Path(str(found.locate_file(file)))
        if ".." in file.parts or "__pycache__" in file.parts or not source.exists():
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def copy_program(name: str, folder: Path) -> None:
    """One of tests/programs: the file itself of those in Python, what is built from those in C."""
    if name.endswith(".py"):
        for source in (find(name).path, find(name).path.with_name("check.py")):
            shutil.copy(source, folder / source.name)
        return
    stem, dash, variant = name.partition("-")
    program = find(f"{stem}.c")
    if dash:
        program = replace(program, cflags=(*program.cflags, VARIANTS[dash + variant]))
    shutil.copy(program.build()[0], folder / name)
