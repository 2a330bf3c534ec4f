"""What a collector of OpenTelemetry gets to hear of a drain and its migrations."""

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from migrate.api.traces import keep_tracing
from tests.api.made_up import Http, MadeUp, Services, run, until


def trace_of(folder: Path, status: int = 200) -> list[dict[str, Any]]:
    """The spans of a drain of one workload."""
    spans: list[dict[str, Any]] = []

    async def collect(request: web.Request) -> web.Response:
        [resource] = (await request.json())["resourceSpans"]
        spans.extend(resource["scopeSpans"][0]["spans"])
        return web.Response(status=status)

    async def work(client: Http, services: Services, _reach: MadeUp) -> None:
        collector = web.Application()
        collector.router.add_post("/v1/traces", collect)
        async with TestServer(collector) as server:
            tracing = asyncio.create_task(keep_tracing(services.store, services.news, str(server.make_url("/"))))
            await (await client.post("/api/v1/drains", json={"host": "a"})).json()

            async def all_told() -> bool:
                return any(span["name"] == "drain a" for span in spans)

            await until(all_told)
            assert not tracing.done()
            tracing.cancel()
            await asyncio.gather(tracing, return_exceptions=True)

    run(folder, work)
    return spans


def test_a_drain_is_one_trace_with_its_migrations_and_their_phases(tmp_path: Path) -> None:
    spans = trace_of(tmp_path)
    by_name = {span["name"]: span for span in spans}
    assert len(by_name) == len(spans) == 3 and len({span["traceId"] for span in spans}) == 1
    drain, move, phase = by_name["drain a"], by_name["migrate redis"], by_name["connect"]
    assert "parentSpanId" not in drain and move["parentSpanId"] == drain["spanId"]
    assert phase["parentSpanId"] == move["spanId"]
    facts = {one["key"]: one["value"] for one in move["attributes"]}
    assert facts["migrate.source"] == {"stringValue": "a"} and facts["migrate.pid"] == {"intValue": "41"}
    assert facts["migrate.downtime_s"] == {"doubleValue": 0.05} and move["status"] == {"code": 1}
    for span in spans:
        assert len(span["traceId"]) == 32 and len(span["spanId"]) == 16
        assert 1e18 < int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])


def test_a_collector_that_answers_badly_is_no_harm(tmp_path: Path) -> None:
    assert len(trace_of(tmp_path, status=503)) == 3
