"""Two guests that share what is under test, booted once for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requires import require_root
from tests.vm import SUPPORTED_KERNELS, Guest, Lab, make_lab
from tests.vm.product import add_exactness, fill_share
from tests.vm.programs import BESIDE_CRIU, CARRIED_BY_BOTH, COMMAND_S, MOVED


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The network of all guests."""
    require_root()
    with make_lab() as made:
        yield made


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What guests have at /srv/share."""
    made = tmp_path_factory.mktemp("share")
    fill_share(made, {*MOVED, *CARRIED_BY_BOTH}, [BESIDE_CRIU])
    add_exactness(made)
    return made


@pytest.fixture(scope="session")
def guests(lab: Lab, share: Path) -> tuple[Guest, Guest]:
    """One of each supported kernel, the older first."""
    old, new = lab.boot(dict(zip(("vm-a", "vm-b"), SUPPORTED_KERNELS, strict=True)), share=share)
    for guest in (old, new):  # what is read from the disk for the first time takes longest
        guest.run(["migrate", "features"], timeout_s=COMMAND_S)
    return old, new
