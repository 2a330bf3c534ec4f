"""How a handler becomes a route: its model of request and answer, the role it takes, its line in the OpenAPI document.

A handler is `async def handler(call, body) -> model`; `call` is who asks and what with.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from core.errors import MigrateError, Refused, UsageError
from migrate.api.models import BlockerModel, Problem, Role
from migrate.api.services import Services
from migrate.errors import StoreError, TransportError
from migrate.fleet.schema import ANSWERS
from migrate.wrong import wrong_with

PREFIX: Final = "/api/v1"
BODY_BYTES_AT_MOST: Final = 1 << 20
RANK: Final = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
M = TypeVar("M", bound=BaseModel)


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, title: str, detail: str = "", hint: str = "") -> None:
        super().__init__(title)
        self.problem = Problem(title=title, status=status, detail=detail, hint=hint)


class NotFound(ApiError):
    """There is no such thing."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(404, "not found", f"{what}: there is none", hint)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `who` asks with `role`; `path` and `query` are its parameters."""

    services: Services
    who: str
    role: Role
    path: dict[str, str]
    query: Any = None


Handler = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation; the handler's docstring says what it does. `answer` is a model, or None for no content."""

    method: str
    path: str
    handler: Handler
    answer: Any
    role: Role = Role.VIEWER
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    status: int = 200
    streams: bool = False  # the handler is called with (request, call) and answers by itself


def problem_response(problem: Problem) -> web.Response:
    """The error as application/problem+json."""
    return web.Response(status=problem.status, text=problem.model_dump_json(), content_type="application/problem+json")


def as_problem(error: Exception) -> Problem | None:
    """Our errors as answers; None for a bug."""
    match error:
        case ApiError():
            return error.problem
        case Refused():
            found = [BlockerModel(**asdict(blocker)) for blocker in error.blockers]
            return Problem(title="refused", status=409, detail=error.message, hint=error.hint or "", blockers=found)
        case ValidationError():
            return Problem(title="invalid request", status=422, detail=wrong_with(error))
        case UsageError():
            return Problem(title="invalid request", status=422, detail=error.message, hint=error.hint or "")
        case TransportError():
            return Problem(title="host cannot be asked", status=502, detail=error.message, hint=error.hint or "")
        case StoreError():
            return Problem(title="database cannot be asked", status=503, detail=error.message, hint=error.hint or "")
        case MigrateError():
            return Problem(title="failed", status=500, detail=error.message, hint=error.hint or "")
    return None


def bind(route: Route, services: Services) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of a route."""

    async def handle(request: web.Request) -> web.StreamResponse:
        who, role = await services.guard.who(request)
        if RANK[role] < RANK[route.role]:
            raise ApiError(403, "not allowed", f"{who} is {role}; this takes {route.role}", "ask for another token")
        query = route.query.model_validate(dict(request.query)) if route.query else None
        call = Call(services, who, role, dict(request.match_info), query)
        if route.streams:
            response: web.StreamResponse = await route.handler(request, call)
            return response
        text = await request.text() if request.can_read_body else ""
        body = route.body.model_validate_json(text or "{}") if route.body else None
        key = request.headers.get("Idempotency-Key")
        if key and route.method == "POST":
            return await _once(route, call, body, key, request)
        return _answer(request, route, await route.handler(call, body))

    return handle


def _answer(request: web.Request, route: Route, answer: Any) -> web.Response:
    if route.answer is None or answer is None:
        return web.Response(status=204)
    text = answer.model_dump_json()
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"'
    if request.method == "GET" and tag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={"ETag": tag})
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    return web.Response(status=route.status, text=text, content_type="application/json", headers=headers)


async def _once(route: Route, call: Call, body: BaseModel | None, key: str, request: web.Request) -> web.Response:
    """The first request with this key acts; later ones get its answer, and another request with the key is refused."""
    store = call.services.store
    told = f"{route.method} {request.path} {body.model_dump_json() if body else ''}"
    digest = hashlib.sha256(told.encode()).digest()
    mine = (ANSWERS.c.key == key, ANSWERS.c.who == call.who)
    fresh = {"key": key[:200], "who": call.who, "request": digest, "status": None, "body": None, "at": store.now()}
    if not await store.add(ANSWERS, fresh):
        known = await store.row(ANSWERS, *mine)
        if known is None or known["request"] != digest:
            raise ApiError(422, "idempotency key", "was used for another request", "every request needs its own key")
        if known["status"] is None:
            raise ApiError(
                409, "idempotency key", "the first request with it is still at work", "ask again in a moment"
            )
        return web.json_response(known["body"], status=known["status"], headers={"Idempotent-Replayed": "true"})
    try:
        response = _answer(request, route, await route.handler(call, body))
    except BaseException:
        await store.remove(ANSWERS, *mine)
        raise
    content = json.loads(response.text) if response.text else None
    await store.change(ANSWERS, *mine, status=response.status, body=content)
    return response
