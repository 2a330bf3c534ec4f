"""Three hosts that a fourth one, ops, coordinates with `migrate serve`."""

from collections.abc import Iterator

import pytest

from tests.api.fleet import Fleet, make_fleet
from tests.requires import require_root


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """ops with a server, web-1, web-2 and web-3 without workloads; shared by the tests of a module."""
    require_root()
    with make_fleet() as made:
        yield made


@pytest.fixture
def fresh_fleet() -> Iterator[Fleet]:
    """As fleet, for one test alone."""
    require_root()
    with make_fleet() as made:
        yield made
