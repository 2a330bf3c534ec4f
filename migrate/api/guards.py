"""Who may ask: bearer tokens, client certificates, or, on loopback alone, whoever can connect."""

import ipaddress
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from core.errors import UsageError
from migrate.api.models import Role
from migrate.api.routes import ApiError
from migrate.api.services import find_token
from migrate.fleet.store import Store

COOKIE: Final = "migrate_token"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class OpenGuard:
    """Lets everybody on this machine do everything; only for loopback. A web page of elsewhere may not."""

    async def who(self, request: web.Request) -> tuple[str, Role]:
        """See Guard."""
        refuse_foreign_page(request)
        if not is_loopback(request.url.host or ""):
            raise ApiError(
                403, "not allowed", f"this server is not called {request.url.host}", "ask for http://localhost"
            )
        return "local", Role.ADMIN


class TokenGuard:
    """Bearer tokens, or the common name of a verified client certificate that a token carries as its name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def who(self, request: web.Request) -> tuple[str, Role]:
        """See Guard."""
        refuse_foreign_page(request)
        text = bearer_of(request)
        found = await find_token(self._store, text) if text else None
        if found is None:
            found = self._by_certificate(request)
        if found is None:
            said = "the token is not known" if text else "there is no token"
            raise ApiError(
                401, "who are you", said, "Authorization: Bearer TOKEN; `migrate serve --add-token` makes one"
            )
        return found

    def _by_certificate(self, request: web.Request) -> tuple[str, Role] | None:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        subject = {key: value for part in (certificate or {}).get("subject", ()) for key, value in part}
        role = subject.get("organizationalUnitName", "")
        name = subject.get("commonName", "")
        return (name, Role(role)) if name and role in set(Role) else None


def bearer_of(request: web.Request) -> str:
    """The token of a request: of its header, or, for a browser's event streams, of its cookie."""
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else request.cookies.get(COOKIE, "")


def refuse_foreign_page(request: web.Request) -> None:
    """A page of another site must not act in a browser's name."""
    origin = request.headers.get("Origin")
    if origin and request.method not in SAFE_METHODS and urlsplit(origin).netloc != request.host:
        raise ApiError(403, "not allowed", f"a page of {origin} may not do that")


def is_loopback(host: str) -> bool:
    """True for names and addresses of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def tls_context(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ssl.SSLContext | None:
    """TLS as the options say, None without; UsageError for files that do not do."""
    if certificate is None:
        if key or client_ca:
            raise UsageError("--tls-key and --client-ca need --tls-cert")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"--tls-cert {certificate}: {error}", hint="PEM files, the key without a passphrase"
        ) from error
    return context
