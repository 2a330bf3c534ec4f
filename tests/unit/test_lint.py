"""The linters are tests: what they say is the failure's text."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.requires import require_program

ROOT = Path(__file__).resolve().parents[2]
PYTHON_TOOLS = {
    "ruff check": ["ruff", "check", "--quiet", "--output-format=concise", "."],
    "ruff format": ["ruff", "format", "--check", "--quiet", "."],
    "mypy": ["mypy", "--no-error-summary"],
}


def findings(argv: list[str]) -> str:
    """What a linter says; empty when it is content."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110)
    return "" if done.returncode == 0 else done.stdout + done.stderr or f"exit {done.returncode}"


@pytest.mark.parametrize("tool", PYTHON_TOOLS)
def test_python_passes(tool: str) -> None:
    if text := findings([sys.executable, "-m", *PYTHON_TOOLS[tool]]):
        pytest.fail(text, pytrace=False)


def test_c_passes_clang_format() -> None:
    sources = sorted(str(path) for pattern in ("*.c", "*.h") for path in (ROOT / "core/native").glob(pattern))
    if text := findings([require_program("clang-format"), "--dry-run", "-Werror", *sources]):
        pytest.fail(text, pytrace=False)


def test_every_python_package_is_pinned() -> None:
    installed = findings([sys.executable, "-m", "pip", "check"])
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.splitlines()  # fmt: skip
    names = {line.split("==")[0].lower() for line in listed} - {"pip", "migrate"}
    assert installed == "" and names <= pins
