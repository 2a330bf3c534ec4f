"""What a viewer sends: input and window sizes, each as a frame. It gets the terminal's output as it is. Pure."""

import struct
from enum import IntEnum
from typing import Final

HEAD: Final = struct.Struct(">BH")  # kind, length of the payload
WINDOW: Final = struct.Struct(">2H")  # rows, columns
PAYLOAD_AT_MOST: Final = 4096
READY, KEPT = b"r", b"k"  # what a server tells the keeper that started it


class Kind(IntEnum):
    """Of a frame."""

    INPUT = 0
    WINDOW = 1


def frame(kind: Kind, payload: bytes) -> bytes:
    """One frame; `payload` is at most PAYLOAD_AT_MOST bytes."""
    return HEAD.pack(kind, len(payload)) + payload
