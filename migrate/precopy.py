"""Pre-copy: rounds while the target runs, until `decide` says freeze. Owns the rounds' records and their events."""

import asyncio
from collections.abc import Callable, Sequence
from typing import assert_never

from core.errors import MigrateError, PageStreamError
from migrate import events
from migrate.convergence import (
    ALLOW_MORE,
    Again,
    Freeze,
    GiveUp,
    Goal,
    RoundRecord,
    Throttle,
    decide,
    expected_downtime_s,
)
from migrate.engine import Keeper, Peer
from migrate.errors import FarError, GaveUp, KeeperLost
from migrate.messages import placed
from migrate.pb import control_pb2 as pb
from migrate.world import World

WHY_LIMIT_S = 2.0
ROUND_AT_LEAST_S = 1.0  # a round that begins just before the deadline, or after it, may be the last that is needed


class Precopy:
    """The rounds of one migration. `goal` loses may_throttle when the kernel cannot."""

    def __init__(
        self,
        world: World,
        keeper: Keeper,
        far: Peer,
        migration_id: str,
        goal: Goal,
        emit: Callable[[events.Event], None],
    ) -> None:
        self._world = world
        self._keeper = keeper
        self._far = far
        self._id = migration_id
        self._goal = goal
        self._emit = emit
        self._began = world.now()
        self._last_scan: float | None = None
        self._cpu_share = 1.0
        self.rounds: list[RoundRecord] = []
        self.sent_bytes = 0
        self.pages = 0

    async def run(self) -> float:
        """Rounds until it is time to freeze; returns the expected downtime. GaveUp when it never will be."""
        while True:
            await self._round_in_time()
            decision = decide(self.rounds, self._goal)
            match decision:
                case Freeze():
                    return decision.expected_s
                case Again():
                    await self._world.sleep(decision.wait_s)
                case Throttle():
                    await self._throttle(decision.share)
                case GiveUp():
                    raise GaveUp(decision.reason, hint=decision.hint)
                case _:
                    assert_never(decision)

    async def _round_in_time(self) -> None:
        """A round, given up at the deadline: at a low rate, or with a host that hangs, its end may never come."""
        deadline_s = self._goal.deadline_s
        left_s = None if deadline_s is None else deadline_s - (self._world.now() - self._began)
        limit = asyncio.timeout(None if left_s is None else max(left_s, ROUND_AT_LEAST_S))
        try:
            async with limit:
                await self._round()
        except TimeoutError as error:
            if not limit.expired():
                raise
            why = f"round {len(self.rounds) + 1} had not ended by the deadline of {deadline_s:g} s"
            hint = "give it more time with --deadline; is the other host, or the way to it, slow?"
            hint = f"{ALLOW_MORE}, or more time with --deadline" if self.rounds else hint
            raise GaveUp(why, hint=hint) from error

    async def _round(self) -> None:
        number = len(self.rounds) + 1
        scanned_at = self._world.now()
        scanned = await self._keeper.ask(pb.Scan(number=number), pb.Scanned)
        pages = sent_bytes = 0
        if scanned.round.HasField("mould"):  # what several tasks have in common lands before they are born
            pages, sent_bytes = await self._carry(number, scanned)
            scanned = await self._keeper.ask(pb.Scan(number=number), pb.Scanned)
        own_pages, own_bytes = await self._carry(number, scanned)
        now = self._world.now()
        since = None if self._last_scan is None else scanned_at - self._last_scan
        self._last_scan = scanned_at
        record = RoundRecord(
            number,
            pages + own_pages,
            sent_bytes + own_bytes,
            now - scanned_at - scanned.compared_seconds,
            since,
            now - self._began,
            self._cpu_share,
            scanned.compared_seconds,
        )
        self.rounds.append(record)
        rate = record.sent_bytes / record.took_s if record.took_s > 0 else 0.0
        expected = expected_downtime_s(self.rounds, self._goal)
        self._emit(events.RoundDone(number, record.dirty_pages, record.sent_bytes, record.took_s, rate, expected))

    async def _carry(self, number: int, scanned: pb.Scanned) -> tuple[int, int]:
        """Pages and bytes sent."""
        ready = await self._far.ask(scanned.round, pb.RoundReady)
        sent = await self.send(number, scanned.pages, ready.fresh)
        return scanned.pages, sent.sent_bytes

    async def send(self, number: int, total_pages: int, fresh: Sequence[int]) -> pb.PagesSent:
        """Send what is pending and wait until it landed."""
        began = self._world.now()

        def heard(progress: pb.Progress) -> None:
            rate = progress.sent_bytes / max(self._world.now() - began, 1e-6)
            self._emit(events.RoundProgress(number, progress.done_pages, total_pages, progress.sent_bytes, rate))

        try:
            sent = await self._keeper.ask(pb.SendPages(number=number, fresh=fresh), pb.PagesSent, on_progress=heard)
        except KeeperLost:
            raise
        except MigrateError as error:
            raise await self._why(error) from error
        landed = await self._far.ask(sent.end, pb.RoundLanded)
        if (landed.frames, landed.pages) != (sent.end.frames, sent.end.pages):
            raise PageStreamError(
                f"round {number}: sent {sent.end.frames} frames with {sent.end.pages} pages, "
                f"landed {landed.frames} with {landed.pages}"
            )
        self.sent_bytes += sent.sent_bytes
        self.pages += sent.end.pages
        return sent

    async def _why(self, error: MigrateError) -> MigrateError:
        """A stream that broke here may be the effect of what failed there: ask."""
        try:
            status = await self._far.ask(pb.Status(migration_id=self._id), pb.StatusAnswer, timeout_s=WHY_LIMIT_S)
        except MigrateError:
            return error
        if not status.detail:
            return error
        return FarError(placed(status.detail, self._far.host), hint=status.hint or None, kind="PageStreamError")

    async def _throttle(self, share: float) -> None:
        answer = await self._keeper.ask(pb.Throttle(cpu_share=share), pb.Throttled)
        if not answer.possible:
            self._goal = self._goal.without_throttle()
            self._emit(events.Notice(f"the target cannot be throttled: {answer.reason}"))
            return
        self._cpu_share = share
        self._emit(events.Throttled(share))
