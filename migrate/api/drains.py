"""What the API does with drains."""

from pydantic import Field

from migrate.api import models
from migrate.api.handlers import Paging, at, moment, read_page
from migrate.api.routes import ApiError, Call, NotFound
from migrate.drain.scheduler import FAILED
from migrate.fleet.drains import OPEN_STATES, Planned, ask_for_drain, plan_drain, refuse_busy
from migrate.fleet.hosts import read_selectors
from migrate.fleet.schema import DRAINS
from migrate.fleet.store import Row


class DrainQuery(Paging):
    """Which drains, the newest first."""

    host: str | None = Field(default=None)


async def create_drain(call: Call, body: models.NewDrain) -> models.Drain:
    """Empty a host; with `dry_run` only the plan comes back."""
    services, spec = call.services, body.model_dump(exclude={"dry_run"})
    if not body.dry_run:  # before everybody is asked
        await refuse_busy(services.store, body.host)
    selectors = await read_selectors(services.store, services.selectors)
    planned = await plan_drain(services.store, services.reach, spec, selectors)
    if body.dry_run:
        return _dry(call, body, planned)
    row = await ask_for_drain(services.store, spec, planned, call.who)
    await services.store.audit(call.who, "drain", body.host, id=row["id"], spec=spec)
    services.news.tell(row["id"])
    return await _drain(call, row["id"])


def _dry(call: Call, body: models.NewDrain, planned: Planned) -> models.Drain:
    return models.Drain(
        id="", host=body.host, state=models.DrainState.WAITING, spec=body,
        plan=models.DrainPlan.model_validate(planned.to_json()), created_at=moment(call.services.store.now()),
        opens_at=at(planned.opens_at), closes_at=at(planned.closes_at), started_at=None, ended_at=None, message="",
        requested_by=call.who, eta_s=planned.plan.takes_s,
    )  # fmt: skip


async def list_drains(call: Call, _body: None) -> models.Page[models.Drain]:
    """Drains, the newest first."""
    query: DrainQuery = call.query
    where = [DRAINS.c.host == query.host] if query.host else []
    order = [DRAINS.c.created_at.desc()]
    rows, following = await read_page(call, DRAINS, *where, order=order)
    return models.Page[models.Drain](items=[await _model(call, row) for row in rows], next=following)


async def get_drain(call: Call, _body: None) -> models.Drain:
    """One drain."""
    return await _drain(call, call.path["id"])


async def cancel_drain(call: Call, body: models.CancelDrain) -> models.Drain:
    """Begin nothing more; what runs ends or rolls back, as asked."""
    drain = await _drain(call, call.path["id"])
    if drain.state not in OPEN_STATES:
        raise ApiError(409, "too late", f"drain {drain.id} is {drain.state}")
    # First: its legs tell by whom.
    await call.services.store.audit(call.who, "cancel-drain", drain.id, running=body.running)
    await call.services.store.change(DRAINS, DRAINS.c.id == drain.id, cancel=body.running)
    call.services.news.tell(drain.id)
    return await _drain(call, drain.id)


async def _drain(call: Call, drain_id: str) -> models.Drain:
    row = await call.services.store.row(DRAINS, DRAINS.c.id == drain_id)
    if row is None:
        raise NotFound(f"drain {drain_id}")
    return await _model(call, row)


async def _model(call: Call, row: Row) -> models.Drain:
    legs = await call.services.store.drain_legs(row["id"])
    states = [leg["state"] for leg in legs if leg["leg"] == "away"]
    times = {name: at(row[name]) for name in ("created_at", "opens_at", "closes_at", "started_at", "ended_at")}
    plan = models.DrainPlan.model_validate(row["plan"])
    begun = {leg["pid"] for leg in legs if leg["leg"] == "away"}
    left = [move for move in plan.moves if move.pid not in begun]
    running = sum(leg["state"] in ("queued", "running") for leg in legs)
    spec = models.NewDrain.model_validate(row["spec"])
    eta = sum(move.takes_s for move in left) / spec.max_parallel if row["ended_at"] is None else None
    return models.Drain.model_validate(
        {
            **row, **times, "spec": spec, "plan": plan, "moved": states.count("done"), "running": running,
            "failed": sum(state in FAILED for state in states), "cancelled": states.count("cancelled"),
            "left": len(left), "eta_s": eta, "migrations": [leg["id"] for leg in legs],
        }
    )  # fmt: skip
