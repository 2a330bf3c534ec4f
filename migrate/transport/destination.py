"""`[user@]host[:port]` as people write it, and as a record. Pure."""

import re
from dataclasses import dataclass

from core.errors import UsageError

SSH_PORT = 22
_EXAMPLES = "write [user@]host[:port], for example root@host-b, host-b:2222 or root@[2001:db8::7]:22"
# Names end up in ~/.ssh/config's ProxyCommand (%h, %r): no leading dash, nothing that a shell would act on.
_HOST = re.compile(r"[\w.:%][\w.:%-]*")
_USER = re.compile(r"[^\s\-'\"`$\\;&<>|(){}][^\s'\"`$\\;&<>|(){}]*")
_BRACKETED = re.compile(r"\[(?P<host>[^\[\]]*)\](?::(?P<port>.*))?")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to go. `host` may be a Host alias of ~/.ssh/config; user and port are None when not written."""

    user: str | None
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"{user}{host}" + (f":{self.port}" if self.port is not None else "")


def parse_destination(text: str) -> Destination:
    """The destination that `text` names; UsageError when it names none."""
    user, at, rest = text.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise _wrong(text, "the user name is empty or has characters that no user name has")
    host, port = _split_port(text, rest)
    if not _HOST.fullmatch(host):
        raise _wrong(text, "the host name is empty or has characters that no host name has")
    return Destination(user or None, host, _parse_port(text, port))


def _split_port(text: str, rest: str) -> tuple[str, str | None]:
    if rest.startswith("["):
        match = _BRACKETED.fullmatch(rest)
        if match is None:
            raise _wrong(text, "the brackets do not match")
        return match["host"], match["port"]
    if rest.count(":") > 1:
        raise _wrong(text, "an IPv6 address needs brackets around it")
    host, colon, port = rest.partition(":")
    return host, port if colon else None


def _parse_port(text: str, port: str | None) -> int | None:
    if port is None:
        return None
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise _wrong(text, f"port {port!r} is not a number from 1 to 65535")
    return int(port)


def _wrong(text: str, reason: str) -> UsageError:
    return UsageError(f"destination {text!r}: {reason}", hint=_EXAMPLES)
