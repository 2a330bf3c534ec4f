"""Never two, never none: the whole flow with something going wrong at every point that a good run passes."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrate.journal import Role
from migrate.machine import State
from migrate.source import Outcome
from tests.fakes.stage import ID, Stage

STRIKES: dict[str, Callable[[Stage], None]] = {
    "connection cut": Stage.cut,
    "destination unreachable": Stage.cut_for_good,
    "source keeper killed": Stage.kill_source_keeper,
    "destination keeper killed": Stage.kill_destination_keeper,
    "coordinator killed": Stage.kill_coordinator,
    "interrupted": Stage.cancel,
    "interrupted twice": Stage.interrupt_twice,
    "it fails": Stage.fail,
}


def points() -> list[str]:
    """Every point that a migration without trouble passes."""

    async def run() -> list[str]:
        with tempfile.TemporaryDirectory() as directory:
            stage = Stage(Path(directory))
            await stage.migrate()
            return stage.faults.trace

    return asyncio.run(run())


POINTS = points()


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing here survives a power cut anyway."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    yield


def test_a_good_run_passes_the_decisive_points_in_order() -> None:
    decisive = [
        "there: Finish answered, not heard",
        "source engine: hand over done",
        "source journal: HANDING_OVER written",
        "there: Resume to be sent",
        "destination journal: RESUMING written",
        "destination engine: resume begins",
        "destination journal: RESUMED written",
        "source journal: HANDED_OVER written",
        "source engine: release begins",
    ]
    assert [point for point in POINTS if point in decisive] == decisive


@pytest.mark.parametrize("strike", STRIKES)
@pytest.mark.parametrize("at", range(len(POINTS)), ids=[f"{n:02} {name}" for n, name in enumerate(POINTS)])
def test_exactly_one_copy_whatever_happens(at: int, strike: str, tmp_path: Path) -> None:
    asyncio.run(run_and_settle(Stage(tmp_path), at, STRIKES[strike]))


async def run_and_settle(stage: Stage, at: int, strike: Callable[[Stage], None]) -> None:
    stage.arm(at, strike)
    result = await stage.migrate()
    assert stage.faults.fired
    check_outcome(stage, result.outcome if result else None)
    stage.expire_grace()
    check_outcome(stage, result.outcome if result else None)
    if stage.source_journal.read(ID, Role.SOURCE) is not None:
        settled = await stage.resolve()
        check_settled(stage, settled.state)
    stage.reality.over = True


def check_outcome(stage: Stage, outcome: Outcome | None) -> None:
    """What is told must be what is."""
    target, copy = stage.reality.target, stage.reality.copy
    match outcome:
        case Outcome.DONE:
            assert copy.running and not target.alive
        case Outcome.ROLLED_BACK | Outcome.REFUSED:
            assert target.running and not copy.running
            assert not copy.exists or not stage.reachable
        case Outcome.IN_DOUBT:
            assert target.alive and not target.running and copy.complete
        case None:  # killed: either nothing was handed over, or both wait for `resolve`
            assert target.running != (copy.complete and not target.running)


def check_settled(stage: Stage, state: State) -> None:
    target, copy = stage.reality.target, stage.reality.copy
    if state is State.DONE:
        assert copy.running and not target.alive
    else:
        assert state is State.ROLLED_BACK
        assert target.running and not copy.exists
