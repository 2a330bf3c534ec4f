"""Preflight on behalf of others: `migrate check` at the source host, about one process and one destination."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.errors import Blocker
from migrate import errors
from migrate.fleet.inventory import MoveChoices
from migrate.fleet.reach import Reach
from migrate.fleet.store import Store
from migrate.fleet.worker import find_address, move_arguments

CHECK_WITHIN_S: Final = 150.0  # a host may take two minutes to start our command
_ELSEWHERE: Final = (errors.TransportError, errors.ProtocolError, errors.FarError)
# What a check fails by on the way to the destination, or there.
OF_DESTINATION: Final = frozenset(
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, _ELSEWHERE)
)


@dataclass(frozen=True, slots=True)
class Checked:
    """All reasons at once; no blockers: it can move."""

    blockers: tuple[Blocker, ...]
    notices: tuple[str, ...] = ()

    def told(self, *, of_destination: bool) -> str:
        """What is against the destination, or what is against moving at all, in a line."""
        return "; ".join(map(str, (one for one in self.blockers if one.of_destination == of_destination)))


async def check_move(
    store: Store, reach: Reach, source: str, pid: int, destination: str, options: Mapping[str, Any]
) -> Checked:
    """What preflight says; UsageError for an unknown host, TransportError when the source cannot be asked."""
    here = await find_address(store, source)
    there = await find_address(store, destination, as_peer=True)
    asked = {key: options[key] for key in MoveChoices.model_fields if key in options}
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            events = await reach.check(here, move_arguments(pid, there, asked))
    except TimeoutError as error:
        raise errors.TransportError(f"{source}: migrate check: no answer within {CHECK_WITHIN_S:.0f} s") from error
    try:
        return _checked(events)
    except (KeyError, TypeError) as error:
        raise errors.ProtocolError(f"{source}: migrate check: said something that is no event of it") from error


def _checked(events: Sequence[Mapping[str, Any]]) -> Checked:
    found: list[Blocker] = []
    for event in events:
        if event["event"] == "blocked":
            found += [_blocker(one) for one in event["blockers"]]
        if event["event"] == "failed":
            there = event["kind"] in OF_DESTINATION
            found.append(Blocker(event["kind"], "check", event["message"], event["hint"], of_destination=there))
    return Checked(tuple(found), tuple(event["text"] for event in events if event["event"] == "notice"))


def _blocker(told: Mapping[str, Any]) -> Blocker:
    ours = (told["code"], told["subject"], told["reason"], told["hint"])
    return Blocker(*ours, of_destination=bool(told.get("of_destination")))
