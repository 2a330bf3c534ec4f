"""The control protocol's messages: bytes ↔ the typed body of a Message, and our errors ↔ Failure. No I/O.

                        coordinator            migrate dest            destination keeper
    Hello, Check             ────────────────────► answers
    Agree                    ────────────────────► starts the keeper, then relays unread ► Agreed
    Round … RoundEnd         ────────────────────────────────────────────────────────────► RoundReady … RoundLanded   ↺
    Finish                   ────────────────────────────────────────────────────────────► Ready: restored, stopped
    Resume (or Abort)        ────────────────────────────────────────────────────────────► Resumed (Aborted)

One request, one answer; Progress may come before an answer, Failure may be the answer to anything.
"""

from dataclasses import replace
from typing import TypeAlias

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Body

import core.errors
import migrate.errors
from core.errors import Blocker, MigrateError, Refused
from migrate.errors import FarError, ProtocolError
from migrate.pb import control_pb2 as pb

PROTOCOL_VERSION = 1
PROTOCOL_OLDEST = 1  # the oldest that we still speak
VERSION = "0.1.0"

Wire: TypeAlias = pb.Message

_FIELD_OF = {
    field.message_type.full_name: field.name
    for field in pb.Message.DESCRIPTOR.oneofs_by_name["body"].fields
    if field.message_type is not None
}
# Classes that Failure can bring back as themselves: made of a message and a hint alone.
_REBUILT: dict[str, type[MigrateError]] = {
    name: error
    for module in (core.errors, migrate.errors)
    for name, error in vars(module).items()
    if isinstance(error, type) and issubclass(error, MigrateError) and error.__init__ is MigrateError.__init__
}


def wrap(body: Body) -> pb.Message:
    """The Message that carries `body`, any of the types of control.proto's oneof."""
    message = pb.Message()
    name = _FIELD_OF.get(body.DESCRIPTOR.full_name)
    if name is None:
        raise ProtocolError(f"{body.DESCRIPTOR.name}: cannot be sent: it is not a message of its own")
    part: Body = getattr(message, name)
    part.CopyFrom(body)
    part.SetInParent()  # an empty body is still there
    return message


def unwrap(message: pb.Message) -> Body:
    """The body of `message`; ProtocolError when it has none that we know."""
    name = message.WhichOneof("body")
    if name is None:
        raise ProtocolError(
            "message: empty or of a kind unknown here",
            hint="the two hosts may have different versions of migrate: install the same on both",
        )
    body: Body = getattr(message, name)
    return body


def encode(body: Body) -> bytes:
    """`body` as the content of one frame."""
    return wrap(body).SerializeToString()


def decode(frame: bytes) -> Body:
    """The body in one frame; ProtocolError when it is not one."""
    try:
        return unwrap(pb.Message.FromString(frame))
    except DecodeError as error:
        raise ProtocolError(f"frame of {len(frame)} bytes: is not a message of ours") from error


def agree_on_version(hello: pb.Hello) -> int:
    """The newest protocol that both sides speak."""
    protocol = min(PROTOCOL_VERSION, hello.protocol_max)
    if protocol < max(PROTOCOL_OLDEST, hello.protocol_min):
        raise ProtocolError(
            f"protocol: version {hello.version or 'unknown'} speaks {hello.protocol_min}-{hello.protocol_max}, "
            f"{VERSION} here speaks {PROTOCOL_OLDEST}-{PROTOCOL_VERSION}",
            hint="install the same version of migrate on both hosts",
        )
    return protocol


def blocker_to_text(blocker: Blocker) -> pb.BlockerText:
    """A blocker as it travels."""
    return pb.BlockerText(code=blocker.code, subject=blocker.subject, reason=blocker.reason, hint=blocker.hint or "")


def blocker_from_text(text: pb.BlockerText, *, of_destination: bool = False) -> Blocker:
    """A blocker as it came."""
    return Blocker(text.code, text.subject, text.reason, text.hint or None, of_destination)


def failure_of(error: Exception) -> pb.Failure:
    """Any exception as the answer Failure; what is not ours is named as an internal error."""
    if isinstance(error, ProcessLookupError):  # a process is free to end at any time
        return pb.Failure(kind=FarError.__name__, message=f"{error.strerror or error}: it has ended meanwhile")
    if not isinstance(error, MigrateError):
        kind = type(error).__name__
        return pb.Failure(kind=kind, message=f"internal error: {kind}: {error}", hint="see the keeper's log file")
    blockers = [blocker_to_text(blocker) for blocker in error.blockers] if isinstance(error, Refused) else []
    kind = error.kind if isinstance(error, FarError) else type(error).__name__
    return pb.Failure(kind=kind, message=error.message, hint=error.hint or "", blockers=blockers)


def error_of(failure: pb.Failure, host: str = "") -> MigrateError:
    """The exception a Failure stands for; FarError when its class takes more than a Failure says. `host`: as placed."""
    hint = failure.hint or None
    if failure.kind == Refused.__name__:
        found = [blocker_from_text(text) for text in failure.blockers]
        return Refused([replace(one, subject=placed(one.subject, host)) for one in found])
    rebuilt = _REBUILT.get(failure.kind)
    message = placed(failure.message, host)
    if rebuilt is None:
        return FarError(message, hint=hint, kind=failure.kind)
    return rebuilt(message, hint=hint)


def placed(text: str, host: str) -> str:
    """`text`, which tells of something on `host`, with the host's name; "" is here, which goes without saying."""
    return f"on {host}: {text}" if host else text
