"""Wrong input of the fleet's commands is told in our words with a hint; what a drain left where it was, in one line."""

import pytest

from core.errors import UsageError
from migrate.api.client import Client
from migrate.api.models import NewHost
from migrate.cli.fleet import ask, stayed_lines

NOBODY = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "a"}, "address: is missing"),
        ({"name": "a", "address": "b", "surprise": 1}, "surprise: is not a known field"),
        ({"name": "a b", "address": "b"}, "name: 'a b' is not a name: names are letters"),
        ([], "the request: is not an object"),
    ],
)
def test_wrong_input_is_told_in_our_words(given: object, said: str) -> None:
    async def work(client: Client) -> None:
        NewHost.model_validate(given)

    with pytest.raises(UsageError) as caught:
        ask(work, NOBODY)
    assert caught.value.message.startswith(said)


def test_a_move_cancelled_before_it_began_says_so_once_and_has_no_empty_hint() -> None:
    assert stayed_lines(7, "cancelled", "cancelled by bob before it began", "") == [
        "  pid 7 cancelled by bob before it began"
    ]
    assert stayed_lines(7, "failed", "host b: is gone", "is it up?") == [
        "  pid 7 failed: host b: is gone",
        "    → is it up?",
    ]
