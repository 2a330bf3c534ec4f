"""Loaded by Python itself at its start, on test hosts only: lets a test stop a keeper at a point of its choice.

MIGRATE_PAUSE is `SIDE REQUEST before|after`: the keeper of that side makes FOLDER/reached then and stays there, until
it is killed or FOLDER/go appears. MIGRATE_IMPATIENT shortens the waits that a test would otherwise have to sit out.
"""

import os
import sys
import time
from typing import Any


def pause_at(wanted: str, folder: str) -> None:
    """Wrap the keeper's `answer`."""
    side, request, when = wanted.split()
    if side == "source":
        from migrate.keeper.source import SourceKeeper as Keeper
    else:
        from migrate.keeper.destination import DestinationKeeper as Keeper  # type: ignore[assignment]
    real = Keeper.answer

    def wait(now: str, body: object) -> None:
        if (now, type(body).__name__) == (when, request) and not os.path.exists(f"{folder}/go"):
            open(f"{folder}/reached", "w").close()
            while not os.path.exists(f"{folder}/go"):
                time.sleep(0.005)

    def answer(self: Any, body: Any) -> Any:
        wait("before", body)
        answered = real(self, body)
        wait("after", body)
        return answered

    Keeper.answer = answer  # type: ignore[method-assign]


async def greet_patiently(peer: Any) -> Any:
    """A program has to start over there, on a machine that is busy with other tests."""
    from migrate.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, VERSION
    from migrate.pb import control_pb2 as pb

    hello = pb.Hello(protocol_min=PROTOCOL_OLDEST, protocol_max=PROTOCOL_VERSION, version=VERSION)
    return await peer.ask(hello, pb.HelloAnswer, timeout_s=20)


def hurry() -> None:
    """Grace 1 s instead of 10, answers within 12 s, a destination looked for during 8 s, a dead link seen in 2 s."""
    from migrate import parties, resolve, source
    from migrate.keeper.listener import Listener
    from migrate.transport.connect import SshOptions

    given = SshOptions.__init__.__defaults__ or ()
    SshOptions.__init__.__defaults__ = tuple(0.5 if value == 5.0 else value for value in given)  # keepalive
    defaults = Listener.__init__.__kwdefaults__
    assert defaults is not None
    defaults["grace_s"] = 1.0
    for module in (parties, resolve, source):
        module.ANSWER_LIMIT_S = 12.0  # type: ignore[attr-defined]
    parties.greet = greet_patiently
    real = resolve.settle

    async def settle(means: Any, migration_id: str, limit_s: float = 0.0) -> Any:
        return await real(means, migration_id, 8.0)

    source.settle = settle  # type: ignore[attr-defined]
    resolve.settle = settle


if "migrate" in " ".join(sys.orig_argv):
    if os.environ.get("MIGRATE_PAUSE") and "migrate.keeper.process" in sys.orig_argv:
        pause_at(os.environ["MIGRATE_PAUSE"], os.environ["MIGRATE_PAUSE_FOLDER"])
    if os.environ.get("MIGRATE_IMPATIENT"):
        hurry()
