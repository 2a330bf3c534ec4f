"""Server-sent events: one migration's events from any number on, and the ids of whatever changes anywhere."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from aiohttp import web

from migrate.api.handlers import moment
from migrate.api.routes import Call, NotFound
from migrate.fleet.schema import MIGRATIONS
from migrate.fleet.store import FINAL_STATES

BEAT_S = 15.0
LOOK_S = 1.0  # another coordinator's events are told by nobody here


async def migration_events(request: web.Request, call: Call) -> web.StreamResponse:
    """The events of one migration, from `Last-Event-ID` on, until it is over."""
    migration_id, store = call.path["id"], call.services.store
    if await store.row(MIGRATIONS, MIGRATIONS.c.id == migration_id) is None:
        raise NotFound(f"migration {migration_id}")
    last = request.headers.get("Last-Event-ID") or request.query.get("after", "0")
    number = int(last) if last.isascii() and last.isdecimal() else 0
    async with _stream(request) as response:
        async for _what in _changes(call, {migration_id}):
            row = await store.row(MIGRATIONS, MIGRATIONS.c.id == migration_id)  # before its events: none is missed
            for event in await store.events_after(migration_id, number):
                number = event["number"]
                body = {"number": number, "at": moment(event["at"]).isoformat(), "body": event["body"]}
                await _send(response, json.dumps(body), name="migration", number=number)
            if row is None or row["state"] in (*FINAL_STATES, "in_doubt"):
                await _send(response, json.dumps({"state": row["state"] if row else "gone"}), name="end")
                break
    return response


async def all_changes(request: web.Request, call: Call) -> web.StreamResponse:
    """The id of every migration and drain that changes, and `hosts` when a host did."""
    async with _stream(request) as response:
        async for what in _changes(call, None):
            if what:
                await _send(response, json.dumps({"changed": what}), name="change")
            else:
                await response.write(b": still here\n\n")
    return response


@contextlib.asynccontextmanager
async def _stream(request: web.Request) -> AsyncIterator[web.StreamResponse]:
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(b"retry: 2000\n\n")
    with contextlib.suppress(ConnectionError):  # the reader went away
        yield response


async def _changes(call: Call, wanted: set[str] | None) -> AsyncIterator[str]:
    """Ids as they change (only `wanted` ones, or all), "" when nothing did for a while; until the server closes."""
    queue = call.services.news.listen()
    wait_s = BEAT_S if wanted is None else LOOK_S
    try:
        yield ""
        while not call.services.closing.is_set():
            try:
                async with asyncio.timeout(wait_s):
                    what = await queue.get()
            except TimeoutError:
                what = ""
            if not what or wanted is None or what in wanted:
                yield what
    finally:
        call.services.news.leave(queue)


async def _send(response: web.StreamResponse, text: str, *, name: str, number: int | None = None) -> None:
    identity = f"id: {number}\n" if number is not None else ""
    await response.write(f"{identity}event: {name}\ndata: {text}\n\n".encode())
