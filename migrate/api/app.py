"""The aiohttp application: routes, errors, documents, and the tasks that work beside them."""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

import swagger_ui_bundle
from aiohttp import web

from core.errors import MigrateError
from migrate.api import drains, handlers, models, streams
from migrate.api.drains import DrainQuery
from migrate.api.guards import COOKIE, refuse_foreign_page
from migrate.api.handlers import MigrationQuery, Paging, WorkloadQuery
from migrate.api.metrics import Metrics
from migrate.api.models import Problem, Role
from migrate.api.openapi import document
from migrate.api.routes import BODY_BYTES_AT_MOST, PREFIX, ApiError, Route, as_problem, bind, problem_response
from migrate.api.services import Services, find_token
from migrate.api.traces import keep_tracing
from migrate.fleet.drains import Controller
from migrate.fleet.hosts import keep_looking
from migrate.fleet.inventory import Workload
from migrate.fleet.schema import HOSTS
from migrate.fleet.worker import Worker

log = logging.getLogger(__name__)
OPERATOR, ADMIN = Role.OPERATOR, Role.ADMIN
Page, Migration, Host = models.Page, models.Migration, models.Host
SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
}

ROUTES: Final[Sequence[Route]] = (
    Route("GET", "/migrations", handlers.list_migrations, Page[Migration], query=MigrationQuery),
    Route("POST", "/migrations", handlers.create_migration, Migration, OPERATOR, models.NewMigration, status=201),
    Route("GET", "/migrations/{id}", handlers.get_migration, Migration),
    Route("POST", "/migrations/{id}/cancel", handlers.cancel_migration, Migration, OPERATOR),
    Route("POST", "/migrations/{id}/resolve", handlers.resolve_migration, Migration, OPERATOR, models.Resolve),
    Route("GET", "/migrations/{id}/events", streams.migration_events, None, streams=True),
    Route("GET", "/changes", streams.all_changes, None, streams=True),
    Route("POST", "/checks", handlers.check, models.CheckResult, OPERATOR, models.Check),
    Route("GET", "/hosts", handlers.list_hosts, Page[Host]),
    Route("POST", "/hosts", handlers.create_host, Host, ADMIN, models.NewHost, status=201),
    Route("GET", "/hosts/{name}", handlers.get_host, Host),
    Route("DELETE", "/hosts/{name}", handlers.remove_host, None, ADMIN),
    Route("POST", "/hosts/{name}/refresh", handlers.refresh_host, Host, OPERATOR),
    Route("POST", "/hosts/{name}/cordon", handlers.cordon_host, Host, OPERATOR, models.Cordon),
    Route("POST", "/hosts/{name}/uncordon", handlers.uncordon_host, Host, OPERATOR),
    Route("GET", "/hosts/{name}/processes", handlers.list_processes, Page[dict[str, Any]], query=WorkloadQuery),
    Route("GET", "/workloads", handlers.find_workloads, Page[Workload]),
    Route("GET", "/selectors", handlers.list_selectors, Page[models.PlacedSelector]),
    Route("POST", "/selectors", handlers.put_selector, models.PlacedSelector, ADMIN, models.NewSelector),
    Route("DELETE", "/selectors/{name}", handlers.remove_selector, None, ADMIN),
    Route("GET", "/drains", drains.list_drains, Page[models.Drain], query=DrainQuery),
    Route("POST", "/drains", drains.create_drain, models.Drain, OPERATOR, models.NewDrain, status=201),
    Route("GET", "/drains/{id}", drains.get_drain, models.Drain),
    Route("POST", "/drains/{id}/cancel", drains.cancel_drain, models.Drain, OPERATOR, models.CancelDrain),
    Route("GET", "/windows", handlers.list_windows, Page[models.Window]),
    Route("POST", "/windows", handlers.put_window, models.Window, OPERATOR, models.Window),
    Route("DELETE", "/windows/{name}", handlers.remove_window, None, OPERATOR),
    Route("GET", "/tokens", handlers.list_tokens, Page[models.Token], ADMIN),
    Route("POST", "/tokens", handlers.create_token, models.Token, ADMIN, models.NewToken, status=201),
    Route("DELETE", "/tokens/{name}", handlers.remove_token, None, ADMIN),
    Route("GET", "/audit", handlers.list_audit, Page[models.AuditEntry], ADMIN, query=Paging),
)  # fmt: skip


def make_app(services: Services, owner: str) -> web.Application:
    """The application. Its background tasks are this coordinator's share of the work, under the name `owner`."""
    app = web.Application(middlewares=[_errors], client_max_size=BODY_BYTES_AT_MOST)
    for route in ROUTES:
        app.router.add_route(route.method, PREFIX + route.path, bind(route, services))
    spec = document(ROUTES)
    metrics = Metrics()

    async def openapi(_request: web.Request) -> web.Response:
        return web.json_response(spec)

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        await services.store.row(HOSTS)
        return web.Response(text="ready\n")

    async def scrape(request: web.Request) -> web.Response:
        await services.guard.who(request)
        text = await metrics.text(services.store)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def log_in(request: web.Request) -> web.Response:
        """A browser's event streams carry no header: the token goes into a cookie that no script can read."""
        refuse_foreign_page(request)
        token = str(dict(json.loads(await request.text())).get("token", ""))
        if await find_token(services.store, token) is None:
            raise ApiError(401, "who are you", "the token is not known")
        response = web.Response(status=204)
        response.set_cookie(COOKIE, token, httponly=True, samesite="Strict", secure=request.secure, path="/")
        return response

    app.router.add_post("/session", log_in)
    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/docs", _docs)
    app.router.add_static("/docs/ui", swagger_ui_bundle.swagger_ui_path)
    static = files("migrate.api") / "dashboard"
    app.router.add_get("/", _file(str(static / "index.html")))
    app.router.add_static("/static", str(static))
    app.on_response_prepare.append(_add_headers)
    app.cleanup_ctx.append(_background(services, owner, metrics))
    return app


def _background(services: Services, owner: str, metrics: Metrics) -> Callable[[web.Application], AsyncIterator[None]]:
    async def work(_app: web.Application) -> AsyncIterator[None]:
        worker = Worker(services.store, services.reach, owner, services.news.tell, metrics.count, hooks=services.hooks)
        services.wake = worker.wake
        controller = Controller(services.store, owner, services.news.tell, worker.wake, services.hooks)
        looking = keep_looking(services.store, services.reach, services.news.tell)
        tasks = [asyncio.create_task(each) for each in (worker.run(), controller.run(), looking)]
        if services.traces:
            tasks.append(asyncio.create_task(keep_tracing(services.store, services.news, services.traces)))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return work


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return problem_response(Problem(title=error.reason, status=error.status, detail=error.text or ""))
    except (MigrateError, ApiError, ValueError) as error:
        problem = as_problem(error)
        if problem is not None:
            return problem_response(problem)
        return problem_response(_bug(error))
    except Exception as error:  # noqa: BLE001 the client gets a sentence, the log the rest
        return problem_response(_bug(error))


def _bug(error: Exception) -> Problem:
    number = uuid.uuid4().hex[:8]
    log.error("internal error %s", number, exc_info=error)
    return Problem(title="internal error", status=500, detail=f"{type(error).__name__}; the log has it as {number}")


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY.items():
        response.headers.setdefault(name, value)


def _file(path: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers={"Cache-Control": "no-cache"})

    return serve


async def _docs(_request: web.Request) -> web.Response:
    """Swagger UI over /openapi.json, from the package alone."""
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape("migrate API")}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/docs/ui/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><script src="/docs/ui/swagger-ui-bundle.js"></script>
<script src="/static/docs.js"></script></body></html>"""
    return web.Response(text=page, content_type="text/html")


def background_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Errors that nobody waits for go to the log."""
    loop.set_exception_handler(
        lambda _loop, context: log.error("%s", context.get("message"), exc_info=context.get("exception"))
    )
