"""Traces of migrations and drains for an OpenTelemetry collector: OTLP over HTTP, in its JSON form.

A span for each migration, below it one for each phase and round; a drain is one trace with its migrations in it. Sent
when it is over, out of what the store has; a collector that does not answer loses them, and nobody waits for it.
"""

import hashlib
import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, TypeAlias

import aiohttp

from core.errors import MigrateError
from migrate.api.services import News
from migrate.fleet.drains import OVER as DRAIN_OVER
from migrate.fleet.schema import DRAINS, MIGRATIONS
from migrate.fleet.store import FINAL_STATES, Row, Store
from migrate.messages import VERSION

Span: TypeAlias = dict[str, Any]
PATH: Final = "/v1/traces"
WITHIN_S: Final = 10.0
INTERNAL, FINE, ERROR = 1, 1, 2  # kind of span, codes of status: opentelemetry-proto, trace.proto

log = logging.getLogger(__name__)


async def keep_tracing(store: Store, news: News, url: str) -> None:
    """Send the trace of all that ends, to the collector at `url`, for ever."""
    told = news.listen()
    sent: set[str] = set()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session:
            while True:
                name = await told.get()
                if name in sent:
                    continue
                try:
                    if spans := await spans_of(store, name):
                        sent.add(name)
                        async with session.post(url.rstrip("/") + PATH, json=_envelope(spans)) as answer:
                            answer.raise_for_status()
                except (aiohttp.ClientError, TimeoutError, MigrateError) as error:
                    log.warning("trace of %s: not sent to %s: %s", name, url, error or type(error).__name__)
    finally:
        news.leave(told)


async def spans_of(store: Store, name: str) -> list[Span]:
    """Those of the migration or drain `name`, none while it is not over."""
    migration = await store.row(MIGRATIONS, MIGRATIONS.c.id == name)
    if migration is not None and migration["state"] in FINAL_STATES:
        return list(_migration(migration, await store.events_after(name, 0)))
    drain = await store.row(DRAINS, DRAINS.c.id == name)
    if drain is not None and drain["state"] in DRAIN_OVER:
        facts = {"host": drain["host"], "state": drain["state"], "by": drain["requested_by"]}
        wrong = drain["message"] if drain["state"] == "failed" else ""
        return [_span(name, name, f"drain {drain['host']}", drain["created_at"], drain["ended_at"], facts, wrong)]
    return []


def _migration(row: Row, events: list[Row]) -> Iterator[Span]:
    trace, whole, end = row["drain_id"] or row["id"], row["id"], row["ended_at"] or row["created_at"]
    result = row["result"] or {}
    facts = {name: row[name] for name in ("source", "destination", "pid", "state")}
    facts |= {name: result[name] for name in ("downtime_s", "rounds", "pages", "sent_bytes") if name in result}
    facts |= {"workload": row["workload"].get("name") or row["workload"].get("command", ""), "by": row["requested_by"]}
    wrong = "" if row["state"] == "done" else row["message"] or row["state"]
    name = f"migrate {facts['workload'] or row['pid']}"
    yield _span(trace, whole, name, row["created_at"], end, facts, wrong, parent=row["drain_id"] or "")
    phases = [event for event in events if event["body"].get("event") == "phase_started"]
    ends = [after["at"] for _, after in pairwise(phases)] + [end]
    for number, (event, over) in enumerate(zip(phases, ends, strict=True)):
        yield _span(trace, f"{whole} {number}", event["body"]["phase"], event["at"], over, {}, parent=whole)
    for event in events:
        body = event["body"]
        if body.get("event") == "round_done":
            facts = {key: body[key] for key in ("dirty_pages", "sent_bytes", "bytes_per_s") if key in body}
            began = event["at"] - body["seconds"]
            round_name = f"round {body['number']}"
            yield _span(trace, f"{whole} {round_name}", round_name, began, event["at"], facts, parent=whole)


def _span(
    trace: str,
    own: str,
    name: str,
    begin: float,
    end: float,
    facts: dict[str, Any],
    wrong: str = "",
    *,
    parent: str = "",
) -> Span:
    """Ids are digests of names, so that the same span sent twice is one. Times are seconds since 1970."""
    span: Span = {
        "traceId": _digest(trace, 16), "spanId": _digest(own, 8), "name": name, "kind": INTERNAL,
        "startTimeUnixNano": str(int(begin * 1e9)), "endTimeUnixNano": str(int(max(begin, end) * 1e9)),
        "attributes": [{"key": f"migrate.{key}", "value": _value(value)} for key, value in facts.items()],
        "status": {"code": ERROR, "message": wrong} if wrong else {"code": FINE},
    }  # fmt: skip
    return {**span, "parentSpanId": _digest(parent, 8)} if parent else span


def _digest(name: str, size: int) -> str:
    return hashlib.sha256(name.encode()).digest()[:size].hex()


def _value(value: object) -> dict[str, object]:
    match value:
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case _:
            return {"stringValue": str(value)}


def _envelope(spans: list[Span]) -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "migrate"}}]}
    scope = {"scope": {"name": "migrate", "version": VERSION}, "spans": spans}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
