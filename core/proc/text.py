"""What all parsers of /proc share: the error with file and line, and the kernel's octal escapes."""

import re
from typing import Final

from core.errors import CollectError

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def malformed(file: str, line_number: int, line: str) -> CollectError:
    """CollectError for a line that is not as the kernel writes it; line numbers start at 1."""
    shown = line if len(line) <= 120 else line[:120] + "…"
    return CollectError(f"{file} line {line_number}", f"cannot parse {shown!r}")


def printable(text: str) -> str:
    """Text without the bytes that are not UTF-8: messages and images cannot hold them.

    A comm is cut after 15 bytes, often in the middle of a character.
    """
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "ignore")


def shown(text: str) -> str:
    """Text for a message: bytes that are not UTF-8 as \\xff."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_printable(text: str) -> bool:
    """True when nothing would be lost by `printable`."""
    return printable(text) == text


def unescaped(path: str) -> str:
    """Path with \\040, \\011, \\012, \\134 undone, as mountinfo writes them."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path) if "\\" in path else path
