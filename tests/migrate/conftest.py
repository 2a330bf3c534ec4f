"""Hosts of the tests of whole moves: pairs that share a directory, one pair for each module."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hosts import make_hosts
from tests.migrate.moving import Pair
from tests.requires import require_root


@contextmanager
def make_pair(folder: Path) -> Iterator[Pair]:
    """Two hosts with sshd that have `folder` in common."""
    require_root()
    with make_hosts("host-a", "host-b", binds={str(folder): str(folder)}) as (a, b):
        a.start_sshd()
        b.start_sshd()
        yield Pair(a, b, folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One pair for all tests of a module."""
    with make_pair(tmp_path_factory.mktemp("shared")) as made:
        yield made
