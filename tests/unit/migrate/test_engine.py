"""A conversation in which requests are given up."""

import asyncio
from collections import deque

import pytest

from migrate.engine import Line, Peer
from migrate.errors import ConnectionLost
from migrate.messages import decode, encode
from migrate.pb import control_pb2 as pb


class FullLine:
    """Takes every message at once, and lets the sender of the first wait for room that never comes."""

    def __init__(self) -> None:
        self.sent: deque[bytes] = deque()
        self._is_full = True

    async def send(self, message: bytes) -> None:
        self.sent.append(message)
        if self._is_full:
            self._is_full = False
            await asyncio.Event().wait()

    async def recv(self) -> bytes | None:
        answer = pb.RoundReady() if isinstance(decode(self.sent.popleft()), pb.Round) else pb.Aborted()
        return encode(answer)

    async def close(self) -> None:
        """Nothing to close."""


def test_a_request_that_is_given_up_while_it_waits_for_room_owes_its_answer_still() -> None:
    async def talk() -> pb.Aborted:
        line = FullLine()
        peer = Peer(Line(line, line.close), "destination")
        with pytest.raises(ConnectionLost):
            await peer.ask(pb.Round(number=1), pb.RoundReady, timeout_s=0.01)
        return await peer.ask(pb.Abort(migration_id="x"), pb.Aborted)

    assert asyncio.run(talk()) == pb.Aborted()
