"""What preflight says on behalf of others: whose the reasons are, and that no answer is no consent."""

import asyncio
import sys

import pytest

from core.errors import MigrateError
from migrate.errors import TransportError
from migrate.fleet.reach import Address, SshReach

HERE = Address("a", "local")


def check(program: str) -> list[dict[str, object]]:
    reach = SshReach([sys.executable, "-c", program])
    return asyncio.run(reach.check(HERE, ["1", "b"]))


@pytest.mark.parametrize("status", [1, 2, 127])
def test_a_check_that_says_nothing_and_fails_is_no_consent(status: int) -> None:
    with pytest.raises(TransportError, match="no such option"):
        check(f"import sys; print('no such option', file=sys.stderr); sys.exit({status})")


def test_a_refusal_is_an_answer() -> None:
    program = """import sys; print('{"event": "blocked", "blockers": []}'); sys.exit(3)"""
    assert check(program) == [{"event": "blocked", "blockers": []}]


def test_what_is_no_json_is_an_error_of_ours() -> None:
    with pytest.raises(MigrateError, match="not JSON"):
        check("print('welcome')")
