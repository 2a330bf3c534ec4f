"""What a test needs from the machine, asked by doing. A missing thing is a skip naming it: tests/conftest.py."""

import os
import shutil

import pytest


def require(condition: bool, what: str) -> None:
    """Skip the calling test unless `condition`; `what` is missing."""
    if not condition:
        pytest.skip(f"missing: {what}")


def require_root() -> None:
    """Tracing other processes and making namespaces takes root."""
    require(os.geteuid() == 0, "root")


def require_program(name: str) -> str:
    """Path of a program on PATH (or in sbin)."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    require(path is not None, f"program {name}")
    assert path is not None
    return path
