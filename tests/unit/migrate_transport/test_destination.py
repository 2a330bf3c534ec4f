import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from migrate.transport.destination import Destination, parse_destination


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host-b", Destination(None, "host-b", None)),
        ("root@host-b", Destination("root", "host-b", None)),
        ("root@host-b:2222", Destination("root", "host-b", 2222)),
        ("10.0.0.2:22", Destination(None, "10.0.0.2", 22)),
        ("[::1]", Destination(None, "::1", None)),
        ("root@[2001:db8::7]:22", Destination("root", "2001:db8::7", 22)),
        ("[fe80::1%eth0]:22", Destination(None, "fe80::1%eth0", 22)),
        ("alice@example.org@host-b", Destination("alice@example.org", "host-b", None)),
        ("my_alias", Destination(None, "my_alias", None)),
    ],
)
def test_every_way_of_writing_a_destination_is_understood(text: str, expected: Destination) -> None:
    assert parse_destination(text) == expected
    assert str(parse_destination(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "@host", "user@", "host:", "host:0", "host:65536", "host:ssh", "host:٢٢", "::1", "2001:db8::7", "[::1", "::1]",
     "[::1]22", "[]", "-oProxyCommand=x", "-l@host", "host name", "a;b", "$(id)@host", "a b@host", "host:22:23"],
)  # fmt: skip
def test_what_is_no_destination_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_destination(text)
    assert repr(text) in caught.value.message
    assert "root@host-b" in (caught.value.hint or "")


@given(st.text(max_size=30))
def test_no_text_ends_in_anything_but_a_destination_or_a_usage_error(text: str) -> None:
    try:
        destination = parse_destination(text)
    except UsageError:
        return
    assert parse_destination(str(destination)) == destination
