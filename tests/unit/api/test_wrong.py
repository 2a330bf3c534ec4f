"""What is wrong with a request names the field and the reason, in our words."""

import pytest
from pydantic import ValidationError

from migrate.api.models import NewMigration
from migrate.wrong import wrong_with

GOOD = '"source": "a", "destination": "b"'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "the body: is not JSON"),
        ("[]", "the body: is not an object"),
        (f"{{{GOOD}}}", "pid: is missing"),
        (f'{{{GOOD}, "pid": 0}}', "pid: is not above 0"),
        (f'{{{GOOD}, "pid": "x"}}', "pid: is not a whole number"),
        (f'{{{GOOD}, "pid": 1, "surprise": 1}}', "surprise: is not a known field"),
        (f'{{{GOOD}, "pid": 1, "options": {{"tcp": "maybe"}}}}', "options.tcp: is not 'refuse'"),
    ],
)
def test_a_wrong_request_is_told_by_its_field_and_the_reason(body: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NewMigration.model_validate_json(body)
    assert wrong_with(caught.value).startswith(said)
