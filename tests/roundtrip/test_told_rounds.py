"""What the two keepers tell each other in a round: an address space once, as long as it stays the same."""

import os
import socket
from pathlib import Path

import pytest

from migrate.errors import ProtocolError
from migrate.keeper.live import LiveDestinationEngine, LiveSourceEngine
from migrate.pb import control_pb2 as pb
from tests.requires import require_root
from tests.roundtrip.targets import LEAF_NAME, ready

LEAF_ID = LEAF_NAME.removeprefix("migrate-")


def test_an_address_space_is_told_when_it_is_another_one(tmp_path: Path) -> None:
    require_root()
    ours, theirs = socket.socketpair()
    engine = LiveSourceEngine(LEAF_ID, [ours.detach()])
    with theirs, ready("pipe_content.c", tmp_path) as run:
        try:
            engine.attach(pb.Attach(pid=run.pid, migration_id=LEAF_ID, destination="nobody", compress="none"))
            first, second = (engine.scan(number).round.memories for number in (1, 2))
        finally:
            engine.thaw()
            engine.close()
    assert [(one.pid, bool(one.mm_image)) for one in (*first, *second)] == [(run.pid, True), (run.pid, False)]


def test_an_address_space_that_was_never_told_is_an_error() -> None:
    require_root()
    engine = LiveDestinationEngine(f"{LEAF_ID}-{os.getpid()}")
    engine.prepare(pb.Agree(migration_id=LEAF_ID, pid_mode="namespace"))
    try:
        with pytest.raises(ProtocolError, match=r"round 2: the address space of pid 7 was never told"):
            engine.begin_round(pb.Round(number=2, memories=[pb.Memory(mm_id=7, pid=7)]))
    finally:
        engine.abort()
