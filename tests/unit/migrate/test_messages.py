"""Messages to bytes and back; errors to Failure and back."""

import pytest
from google.protobuf.message import Message as Body

from core.errors import Blocker, CollectError, MigrateError, Refused, RestoreError, UsageError
from migrate.errors import ConnectionLost, FarError, ProtocolError
from migrate.messages import PROTOCOL_VERSION, agree_on_version, decode, encode, error_of, failure_of
from migrate.pb import control_pb2 as pb

BODIES = [field.message_type._concrete_class() for field in pb.Message.DESCRIPTOR.oneofs_by_name["body"].fields]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_every_message_comes_back_as_itself_even_when_empty(body: Body) -> None:
    assert decode(encode(body)) == body and type(decode(encode(body))) is type(body)


def test_fields_survive() -> None:
    assert decode(encode(pb.RoundEnd(number=3, frames=2, pages=7))) == pb.RoundEnd(number=3, frames=2, pages=7)


@pytest.mark.parametrize("frame", [b"", b"\xff\xff\xff", b"hello", b"\xc2\x0c\x00"])
def test_what_is_no_message_is_a_protocol_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(frame)


def test_a_part_of_a_message_cannot_be_sent_alone() -> None:
    with pytest.raises(ProtocolError, match="PhaseTime"):
        encode(pb.PhaseTime(name="x"))


@pytest.mark.parametrize("kind", [MigrateError, UsageError, RestoreError, ConnectionLost, ProtocolError])
def test_a_simple_error_comes_back_as_itself(kind: type[MigrateError]) -> None:
    found = error_of(failure_of(kind("pid 1: cannot", hint="try")))
    assert (type(found), found.message, found.hint) == (kind, "pid 1: cannot", "try")


def test_a_process_that_ended_is_no_internal_error() -> None:
    found = error_of(failure_of(ProcessLookupError(3, "pid 812: no such process")))
    assert (found.message, found.hint) == ("pid 812: no such process: it has ended meanwhile", None)


def test_a_refusal_keeps_its_blockers() -> None:
    blockers = (Blocker("fd", "fd 7", "is a socket", "close it"), Blocker("pid", "pid 812", "is taken"))
    found = error_of(failure_of(Refused(blockers)))
    assert isinstance(found, Refused) and found.blockers == blockers
    assert found.hint == "; ".join(dict.fromkeys(one.hint for one in blockers if one.hint))


def test_an_error_with_fields_keeps_its_words_and_its_name() -> None:
    failure = failure_of(CollectError("fd 7", "cannot be read", hint="h"))
    found = error_of(failure)
    assert isinstance(found, FarError)
    assert (found.kind, found.message, found.hint) == ("CollectError", "fd 7: cannot be read", "h")
    assert failure_of(found) == failure


def test_an_error_that_is_not_ours_is_named_as_internal() -> None:
    assert failure_of(KeyError("x")).message == "internal error: KeyError: 'x'"


@pytest.mark.parametrize(("oldest", "newest"), [(1, 1), (1, 9), (0, PROTOCOL_VERSION)])
def test_versions_that_overlap_agree(oldest: int, newest: int) -> None:
    assert agree_on_version(pb.Hello(protocol_min=oldest, protocol_max=newest)) == PROTOCOL_VERSION


@pytest.mark.parametrize(("oldest", "newest"), [(2, 9), (0, 0)])
def test_versions_that_do_not_overlap_are_refused_with_both_named(oldest: int, newest: int) -> None:
    with pytest.raises(ProtocolError, match=f"speaks {oldest}-{newest}") as caught:
        agree_on_version(pb.Hello(protocol_min=oldest, protocol_max=newest, version="7"))
    assert "same version" in (caught.value.hint or "")
