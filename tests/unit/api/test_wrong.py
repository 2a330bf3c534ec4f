"""What is wrong with a request names the field and the reason, in our words."""

import json
import re

import pytest
from pydantic import ValidationError

from migrate.api.app import ROUTES
from migrate.api.models import NewMigration
from migrate.api.openapi import document
from migrate.wrong import PATTERNS, wrong_with

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
        (f'{{{GOOD}, "pid": 1, "options": {{"shared": ["x"]}}}}', "options.shared: 'x' is not an absolute path"),
        (f'{{{GOOD}, "pid": 1, "options": {{"tty": "x"}}}}', "options.tty: 'x' is neither `new` nor an absolute path"),
        (f'{{{GOOD}, "pid": 1, "options": {{"bandwidth": "1"}}}}', "options.bandwidth: '1' is not a rate; write bits"),
        ('{"source": "a b", "destination": "b", "pid": 1}', "source: 'a b' is not a name: names are letters"),
    ],
)
def test_a_wrong_request_is_told_by_its_field_and_the_reason(body: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        NewMigration.model_validate_json(body)
    assert wrong_with(caught.value).startswith(said)


def test_every_pattern_that_a_request_must_match_has_words() -> None:
    found = re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(document(ROUTES)))
    assert found and {json.loads(pattern) for pattern in found} <= set(PATTERNS)
