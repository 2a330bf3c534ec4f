"""Errors of the migration itself; the tree's root and the engine's errors are in core.errors.

MigrateError
├── TransportError      SSH, or a channel over it, does not do what we need
│   ├── HostUnreachable         no way to an SSH server there: name, route, port, time
│   ├── HostKeyUnknown          nobody has ever said that the key it shows is the right one
│   ├── HostKeyChanged          it shows another key than the one that is known
│   ├── AuthenticationFailed    it takes none of our keys
│   ├── RemoteProgramMissing    the login works, but migrate is not installed there
│   ├── RemoteSudoRefused       sudo there wants a password or does not allow it
│   ├── RemoteProgramFailed     the program there ended with an error
│   ├── RemoteProtocolError     what arrives is not our framing, or of another version
│   └── ConnectionLost          the other end went away, or was silent for too long
├── ProtocolError       the other end said something nobody may say there
│   └── OutOfOrder      a step that the state machine does not have
├── SyncError           a file that is to be there too cannot be sent
├── InstallError        this program cannot be put onto another host
├── JournalError        a journal cannot be read or written
├── KeeperLost          our own engine process is gone
├── GaveUp              the dirty set would not shrink enough; the source runs on
├── Interrupted         the user stopped it in time; the source runs on
├── Unsettled           nobody can say yet which copy is to run
└── FarError            the other end failed with an error class we cannot rebuild here
"""

from core.errors import MigrateError


class TransportError(MigrateError):
    """SSH, or a channel over it, does not do what we need; nothing there was touched by this error."""


class HostUnreachable(TransportError):
    """No way to an SSH server there: the name, the route, the port, or time ran out."""


class HostKeyUnknown(TransportError):
    """The host key is in no known_hosts file."""


class HostKeyChanged(TransportError):
    """The host shows another key than the one in known_hosts."""


class AuthenticationFailed(TransportError):
    """The host takes none of our keys."""


class RemoteProgramMissing(TransportError):
    """The login works, but our program is not installed there."""


class RemoteSudoRefused(TransportError):
    """sudo there wants a password, or does not allow the command."""


class RemoteProgramFailed(TransportError):
    """The program there ended with an error."""


class RemoteProtocolError(TransportError):
    """What arrives is not our framing, or is of another version."""


class ConnectionLost(TransportError):
    """The other end of a control channel went away, or was silent for too long."""


class ProtocolError(MigrateError):
    """The other end said something nobody may say there."""


class OutOfOrder(ProtocolError):
    """A step that the state machine does not have."""


class SyncError(MigrateError):
    """A file that is to be on the other host too cannot be sent there; what was sent before stays."""


class InstallError(MigrateError):
    """This program cannot be packed here, or does not come to run over there; nothing was changed there."""


class JournalError(MigrateError):
    """A journal cannot be read or written: `path` names the file."""

    def __init__(self, path: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason


class KeeperLost(MigrateError):
    """Our own engine process is gone."""


class GaveUp(MigrateError):
    """The dirty set would not shrink enough for the downtime asked for."""


class Interrupted(MigrateError):
    """The user stopped it while there was a way back."""


class Unsettled(MigrateError):
    """Nobody can say yet which copy is to run; both are stopped."""


class FarError(MigrateError):
    """The other end failed with an error class we cannot rebuild here: `kind` is its name."""

    def __init__(self, message: str, *, hint: str | None = None, kind: str = "MigrateError") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class StoreError(MigrateError):
    """The coordinator's database cannot be reached or does not take what it is given."""


def words_of(error: Exception) -> tuple[str, str | None]:
    """What any error says to a person, and its hint."""
    if isinstance(error, MigrateError):
        return error.message, error.hint
    return f"{type(error).__name__}: {error}", None


def reason_of(error: Exception) -> str:
    """The same as one text to be written down or sent: never empty, always UTF-8."""
    text, hint = words_of(error)
    whole = (f"{text} → {hint}" if hint else text) or type(error).__name__
    return whole.encode(errors="backslashreplace").decode()
