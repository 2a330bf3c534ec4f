from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.migrate_transport.sshd import Server, run_sshd


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with run_sshd(tmp_path) as running:
        yield running
