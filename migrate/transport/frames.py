"""Length-prefixed frames: a pure codec, and BlockingFrames for processes without asyncio. It does not read messages.

Each direction: once b"MGRT" and u16 version, then any number of u32 length and that many bytes; all big-endian.
"""

import socket
import struct

from migrate.errors import ConnectionLost, RemoteProtocolError

MAGIC = b"MGRT"
FRAME_VERSION = 1
FRAME_MAX_BYTES = 256 << 20
PREFACE = MAGIC + struct.pack(">H", FRAME_VERSION)

_LENGTH = struct.Struct(">I")
_SHOWN_BYTES = 60
_READ_AT_ONCE = 1 << 20


def encode_frame(message: bytes) -> bytes:
    """`message` with its length before it; the preface is the sender's business."""
    return encode_length(message) + message


def encode_length(message: bytes) -> bytes:
    """The 4 bytes that go before `message`."""
    if len(message) > FRAME_MAX_BYTES:
        raise RemoteProtocolError(f"frame of {len(message)} bytes: cannot be sent: {FRAME_MAX_BYTES} is the limit")
    return _LENGTH.pack(len(message))


def check_preface(peer: str, received: bytes) -> None:
    """RemoteProtocolError unless `received` (as much as has come, up to a line) is, or may become, our preface."""
    if not MAGIC.startswith(received[: len(MAGIC)]):
        raise RemoteProtocolError(
            f"{peer}: sent text before the protocol began: {show_bytes(received)}",
            hint="a login script there (.bashrc, .profile, ForceCommand) prints in sessions without a terminal: "
            "`ssh HOST true` must print nothing",
        )
    if len(received) >= len(PREFACE) and not received.startswith(PREFACE):
        (version,) = struct.unpack(">H", received[len(MAGIC) : len(PREFACE)])
        raise RemoteProtocolError(
            f"{peer}: speaks version {version} of the framing, we speak {FRAME_VERSION}",
            hint="install the same version of migrate on both hosts; "
            f"the one {'here' if version > FRAME_VERSION else 'there'} is the older",
        )


def parse_length(peer: str, header: bytes) -> int:
    """Length of the frame that follows its 4-byte `header`."""
    length: int
    (length,) = _LENGTH.unpack(header)
    if length > FRAME_MAX_BYTES:
        raise RemoteProtocolError(
            f"{peer}: announces a frame of {length} bytes ({show_bytes(header)}), {FRAME_MAX_BYTES} is the limit",
            hint="something there writes into our stream",
        )
    return length


def show_bytes(received: bytes) -> str:
    """What was received, for a message: quoted, one line, cut."""
    text = received[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return repr(text) + (" …" if len(received) > _SHOWN_BYTES else "")


class FrameDecoder:
    """Bytes in, messages out. `peer` is the name in errors; `preface=False` for a stream that began elsewhere."""

    def __init__(self, peer: str, *, preface: bool = True) -> None:
        self.peer = peer
        self._buffer = bytearray()
        self._preface_due = preface

    def feed(self, received: bytes) -> list[bytes]:
        """All messages that `received` completes."""
        self._buffer += received
        if self._preface_due and not self._take_preface():
            return []
        messages = []
        while (message := self._take_frame()) is not None:
            messages.append(message)
        return messages

    def end(self) -> None:
        """The stream ended: ConnectionLost if that was inside a preface or a frame."""
        if self._buffer:
            raise ConnectionLost(f"{self.peer}: ended in the middle of a frame: {len(self._buffer)} bytes of it came")

    def _take_preface(self) -> bool:
        check_preface(self.peer, bytes(self._buffer[: _SHOWN_BYTES + 1]))
        if len(self._buffer) < len(PREFACE):
            return False
        del self._buffer[: len(PREFACE)]
        self._preface_due = False
        return True

    def _take_frame(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + parse_length(self.peer, bytes(self._buffer[: _LENGTH.size]))
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            message = bytes(view[_LENGTH.size : end])
        del self._buffer[:end]
        return message


class BlockingFrames:
    """Frames over a socket for synchronous code; never reads past a frame, so poll() on the socket tells the truth.

    The socket stays the caller's. A timeout set on it ends send and recv with TimeoutError, and with that the stream.
    """

    def __init__(self, connection: socket.socket, peer: str = "keeper") -> None:
        self.connection = connection
        self.peer = peer
        self._preface_sent = False
        self._preface_seen = False

    def fileno(self) -> int:
        """For poll()."""
        return self.connection.fileno()

    def send(self, message: bytes) -> None:
        """Send one message; ConnectionLost when nobody is there any more."""
        header = encode_length(message)
        if not self._preface_sent:
            header = PREFACE + header
        try:
            self.connection.sendall(header + message if len(message) < _READ_AT_ONCE else header)
            if len(message) >= _READ_AT_ONCE:
                self.connection.sendall(message)
        except (BrokenPipeError, ConnectionError) as error:
            raise ConnectionLost(f"{self.peer}: cannot be sent to: the connection is closed") from error
        self._preface_sent = True

    def recv(self) -> bytes | None:
        """The next message, or None when the other end has closed between two."""
        if not self._preface_seen:
            preface = self._read(len(PREFACE))
            check_preface(self.peer, preface)
            if not preface:
                return None
            self._complete(preface, len(PREFACE))
            self._preface_seen = True
        header = self._read(_LENGTH.size)
        if not header:
            return None
        length = parse_length(self.peer, self._complete(header, _LENGTH.size))
        return self._complete(self._read(length), length)

    def _read(self, count: int) -> bytes:
        """`count` bytes, or fewer when the stream ends before."""
        buffer = bytearray(count)
        done = 0
        with memoryview(buffer) as view:
            while done < count:
                try:
                    got = self.connection.recv_into(view[done : done + _READ_AT_ONCE])
                except ConnectionError as error:
                    raise ConnectionLost(f"{self.peer}: went away: {error.strerror or error}") from error
                if not got:
                    break
                done += got
        return bytes(buffer[:done])

    def _complete(self, received: bytes, count: int) -> bytes:
        if len(received) < count:
            raise ConnectionLost(f"{self.peer}: ended in the middle of a frame: {len(received)} of {count} bytes came")
        return received
