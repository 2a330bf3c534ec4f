"""What handlers work with: the store, the way to the hosts, who is asked for, and who hears of changes."""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from migrate.api.models import Role
from migrate.fleet.hooks import Hooks
from migrate.fleet.inventory import Selector
from migrate.fleet.reach import Reach
from migrate.fleet.schema import TOKENS
from migrate.fleet.store import Store


class Guard(Protocol):
    """Says who asks. Raises an ApiError for those it does not know."""

    async def who(self, request: web.Request) -> tuple[str, Role]:
        """Name and role."""
        ...


class News:
    """Tells whoever listens the ids of what changed."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[str]] = set()

    def tell(self, what: str) -> None:
        """`what` changed. A listener that does not keep up hears less."""
        for queue in self._listeners:
            if not queue.full():
                queue.put_nowait(what)

    def listen(self) -> "asyncio.Queue[str]":
        """A queue of ids, until `leave`."""
        queue: asyncio.Queue[str] = asyncio.Queue(1000)
        self._listeners.add(queue)
        return queue

    def leave(self, queue: "asyncio.Queue[str]") -> None:
        """Listen no more."""
        self._listeners.discard(queue)


@dataclass(slots=True)
class Services:
    """All of it, for the life of a server."""

    store: Store
    reach: Reach
    guard: Guard
    selectors: Sequence[Selector] = ()  # of the inventory file
    hooks: Hooks = field(default_factory=Hooks)
    traces: str = ""  # URL of an OpenTelemetry collector
    news: News = field(default_factory=News)
    wake: Callable[[], None] = lambda: None
    closing: asyncio.Event = field(default_factory=asyncio.Event)


def digest_of(token: str) -> bytes:
    """What is stored of a token. It has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).digest()


async def make_token(store: Store, name: str, role: Role) -> str | None:
    """A new token's text; None when the name is taken."""
    text = f"mig_{secrets.token_urlsafe(32)}"
    values = {"name": name, "role": role.value, "digest": digest_of(text), "created_at": store.now(), "used_at": None}
    return text if await store.add(TOKENS, values) else None


async def find_token(store: Store, text: str) -> tuple[str, Role] | None:
    """Whose token it is."""
    digest = digest_of(text)
    row = await store.row(TOKENS, TOKENS.c.digest == digest)
    if row is None or not hmac.compare_digest(row["digest"], digest):
        return None
    if row["used_at"] is None or store.now() - row["used_at"] > 60:
        await store.change(TOKENS, TOKENS.c.name == row["name"], used_at=store.now())
    return row["name"], Role(row["role"])
