"""Whom a migration speaks with: the destination, our keeper, the page streams.

Owns their life and how each is told to undo; decides nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from core.errors import MigrateError
from migrate.engine import Keeper, Peer
from migrate.errors import OutOfOrder
from migrate.pb import control_pb2 as pb
from migrate.resolve import ANSWER_LIMIT_S, Means, abort_there, greet
from migrate.world import PageStream, World

log = logging.getLogger(__name__)
TELL_AFTER_S = 3.0  # a connection that works is closed long before
CLOSE_AT_MOST_S = 30.0


class Parties:
    """Who was reached so far."""

    def __init__(self, world: World, migration_id: str) -> None:
        self._world = world
        self._id = migration_id
        self._destination: Peer | None = None
        self._keeper: Keeper | None = None
        self._streams: list[PageStream] = []

    @property
    def here(self) -> Keeper:
        """Our keeper; OutOfOrder before it was started."""
        if self._keeper is None:
            raise OutOfOrder("source keeper: is not running")
        return self._keeper

    @property
    def there(self) -> Peer:
        """The destination; OutOfOrder before it was reached."""
        if self._destination is None:
            raise OutOfOrder("destination: is not connected")
        return self._destination

    async def connect(self) -> tuple[pb.HelloAnswer, float]:
        """Reach the destination and greet it; its answer, and the round trip in seconds."""
        self._destination = await self._world.far.serve()
        answer = await greet(self._destination)
        asked = self._world.now()
        await greet(self._destination)  # for the round trip alone: the first one waited for a program to start
        return answer, self._world.now() - asked

    async def open_streams(self, count: int) -> None:
        """Page streams to the destination's keeper."""
        for _ in range(count):
            self._streams.append(await self._world.far.open_page_stream(self._id))

    async def start_keeper(self, lock_fd: int) -> None:
        """Our keeper, with the page streams and the target's lock."""
        self._keeper = await self._world.spawn_keeper(self._id, self._streams, lock_fd)
        for stream in self._streams:
            stream.close_local()

    async def resume(self, note: Callable[[str], None], then_s: float) -> pb.Resumed:
        """Have the destination let its copy run. `note` hears when it does not answer soon, and that it is asked again
        for `then_s` seconds after that."""
        told = f"{self.there.name}: does not say yet that the copy runs; waiting {ANSWER_LIMIT_S:g} s for it"
        with _told_late(note, f"{told}, then asking anew for some {then_s:g} s"):
            return await self.there.ask(pb.Resume(migration_id=self._id), pb.Resumed, timeout_s=ANSWER_LIMIT_S)

    async def stop_keeper(self, thaw_because: str = "") -> bool:
        """See our keeper gone: from then on the journal cannot change under us. With a reason it is to thaw first and
        to journal why; True when it did."""
        await self._close_streams()  # a keeper that is blocked on a full stream could not hear us
        if self._keeper is None:
            return False
        try:
            if thaw_because:
                await self._keeper.ask(pb.Thaw(reason=thaw_because), pb.Thawed, timeout_s=ANSWER_LIMIT_S)
            return bool(thaw_because)
        except (MigrateError, OSError) as error:
            log.warning("the keeper did not thaw: %s", error)
            return False
        finally:
            await self._keeper.stop()

    async def abort(self, means: Means, reason: str, note: Callable[[str], None]) -> None:
        """Best effort: what is left there neither runs nor hurts, and `migrate resolve` removes it."""
        if self._destination is None:
            return
        try:
            abort = pb.Abort(migration_id=self._id, reason=reason)
            await self._destination.ask(abort, pb.Aborted, timeout_s=ANSWER_LIMIT_S)
            return
        except (MigrateError, OSError) as error:
            log.warning("abort: %s", error)
        try:
            await abort_there(means, self._id, reason)
        except (MigrateError, OSError) as error:
            note(f"a stopped copy may be left at the destination, `migrate resolve {self._id}` removes it: {error}")

    async def hang_up(self) -> None:
        """Speak with nobody any more."""
        await self._close_streams()
        if self._keeper is not None:
            await self._keeper.stop()
        if self._destination is not None:
            with contextlib.suppress(MigrateError, OSError):
                await self._destination.close()

    async def close(self, note: Callable[[str], None]) -> None:
        """Speak with nobody any more, and close the connection. How it came out is decided by then: `note` hears of a
        host that does not answer, and it is not waited for longer than CLOSE_AT_MOST_S."""
        name = self._destination.name if self._destination else "destination"
        told = f"{name}: does not answer; its connection is closed, which takes {CLOSE_AT_MOST_S:g} s at most"
        try:
            with _told_late(note, told):
                async with asyncio.timeout(CLOSE_AT_MOST_S):
                    await self.hang_up()
                    await self._world.far.close()
        except Exception:  # what is still to be told of the migration does not depend on it
            log.exception("%s: its connection did not close in order", name)

    async def _close_streams(self) -> None:
        for stream in self._streams:
            with contextlib.suppress(MigrateError, OSError):
                await stream.close()


@contextlib.contextmanager
def _told_late(note: Callable[[str], None], text: str) -> Iterator[None]:
    """`note` hears `text` if what is inside takes longer than TELL_AFTER_S."""
    telling = asyncio.get_running_loop().call_later(TELL_AFTER_S, note, text)
    try:
        yield
    finally:
        telling.cancel()
