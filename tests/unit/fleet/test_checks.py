"""What preflight says on behalf of others: whose the reasons are, and that no answer is no consent."""

import asyncio
import sys
from pathlib import Path

import pytest

from core.errors import MigrateError
from migrate.errors import ProtocolError, TransportError
from migrate.fleet.checks import check_move
from migrate.fleet.reach import Address, SshReach
from tests.api.made_up import Http, MadeUp, Services, run

HERE = Address("a", "local")


def check(program: str) -> list[dict[str, object]]:
    reach = SshReach([sys.executable, "-c", program])
    return asyncio.run(reach.check(HERE, ["1", "b"]))


@pytest.mark.parametrize("status", [0, 1, 2, 127])
def test_a_check_that_says_nothing_is_no_consent(status: int) -> None:
    with pytest.raises(TransportError, match="no such option"):
        check(f"import sys; print('no such option', file=sys.stderr); sys.exit({status})")


def test_a_refusal_is_an_answer() -> None:
    program = """import sys; print('{"event": "blocked", "blockers": []}'); sys.exit(3)"""
    assert check(program) == [{"event": "blocked", "blockers": []}]


def test_what_is_no_json_is_an_error_of_ours() -> None:
    with pytest.raises(MigrateError, match="not JSON"):
        check("print('welcome')")


@pytest.mark.parametrize(
    ("kind", "of_destination"),
    [("HostUnreachable", True), ("ProtocolError", True), ("FarError", True), ("CollectError", False)],
)
def test_what_fails_on_the_way_or_there_is_the_destinations(tmp_path: Path, kind: str, of_destination: bool) -> None:
    async def work(client: Http, services: Services, reach: MadeUp) -> None:
        reach.says = [{"event": "failed", "kind": kind, "message": "m", "hint": None}]
        found = await check_move(services.store, reach, "a", 41, "b", {})
        assert (found.told(of_destination=True), found.told(of_destination=False)) == (
            ("check: m", "") if of_destination else ("", "check: m")
        )

    run(tmp_path, work)


@pytest.mark.parametrize("odd", [{}, {"event": "failed"}, {"event": "blocked", "blockers": [{}]}])
def test_what_is_no_event_of_a_check_is_an_error_of_ours(tmp_path: Path, odd: dict[str, object]) -> None:
    async def work(client: Http, services: Services, reach: MadeUp) -> None:
        reach.says = [odd]
        with pytest.raises(ProtocolError, match="no event"):
            await check_move(services.store, reach, "a", 41, "b", {})

    run(tmp_path, work)
