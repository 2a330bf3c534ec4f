"""What the fleet's commands were given wrong is told in our words, with a hint, before any server is asked."""

import pytest

from core.errors import UsageError
from migrate.api.client import Client
from migrate.api.models import NewHost
from migrate.cli.fleet import ask

NOBODY = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "a"}, "address: is missing"),
        ({"name": "a", "address": "b", "surprise": 1}, "surprise: is not a known field"),
        ({"name": "a b", "address": "b"}, "name: does not match"),
        ([], "the request: is not an object"),
    ],
)
def test_wrong_input_is_told_in_our_words(given: object, said: str) -> None:
    async def work(client: Client) -> None:
        NewHost.model_validate(given)

    with pytest.raises(UsageError) as caught:
        ask(work, NOBODY)
    assert caught.value.message.startswith(said)
    assert caught.value.hint is not None and "--help" in caught.value.hint
