"""The dashboard in a real browser, in light and dark, wide and narrow, by the keyboard, over real migrations."""

import pytest

from tests.api.fleet import PORT, Fleet
from tests.hosts.host import REPOSITORY
from tests.migrate.moving import PYTHON

ARTEFACTS = REPOSITORY / "build/dashboard"

pytestmark = pytest.mark.timeout(400)


def browse(fleet: Fleet, *steps: str) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    argv = [PYTHON, "-m", "tests.api.browser", f"http://127.0.0.1:{PORT}/", str(ARTEFACTS), *steps]
    fleet.ops.run(argv, timeout_s=300, env={"PYTHONPATH": str(REPOSITORY)})


def test_a_migration_is_checked_started_and_followed_to_its_end(fleet: Fleet) -> None:
    run = fleet.start("memory_churn.c", on="web-1")
    browse(fleet, f"move web-1 {run.pid} web-2")
    assert fleet.hosts["web-2"].alive(run.pid) and not fleet.hosts["web-1"].alive(run.pid)
    run.release()
    assert run.result() == "PASS"


def test_a_migration_is_cancelled(fleet: Fleet) -> None:
    run = fleet.start("memory_big.c", on="web-1")
    browse(fleet, f"cancel web-1 {run.pid} web-3")
    assert fleet.hosts["web-1"].alive(run.pid) and not fleet.hosts["web-3"].alive(run.pid)
    run.release()
    assert run.result() == "PASS"


def test_every_page_shows_after_a_drain(fleet: Fleet) -> None:
    run = fleet.start("threads50.c", on="web-1")
    browse(fleet, "drain web-1", *(f"page {name}" for name in ("hosts", "migrations", "drains", "windows", "history")))
    assert not fleet.hosts["web-1"].alive(run.pid)
    run.release()
    assert run.result() == "PASS"
