import asyncio
import os
import signal

import pytest

from migrate.cli.interrupt import Interruption, run
from migrate.cli.watch import ExitCode
from migrate.errors import Interrupted


class Progress:
    """A migration that can turn back, or not."""

    resolve_command = "migrate resolve abc"

    def __init__(self, *, can_turn_back: bool) -> None:
        self.can_turn_back = can_turn_back
        self.notes: list[str] = []
        self.closed = False

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        self.closed = True


def interrupted(*, can_turn_back: bool, times: int) -> tuple[Progress, list[str], list[int]]:
    progress = Progress(can_turn_back=can_turn_back)
    cancelled: list[str] = []
    left: list[int] = []
    interruption = Interruption(progress, lambda: cancelled.append("cancelled"), left.append)
    for _ in range(times):
        interruption()
    return progress, cancelled, left


def test_the_first_ctrl_c_rolls_back_and_says_so() -> None:
    progress, cancelled, left = interrupted(can_turn_back=True, times=1)
    assert cancelled == ["cancelled"] and left == []
    assert "rolling back" in progress.notes[0] and "once more" in progress.notes[0]


def test_the_second_leaves_at_once_with_the_terminal_in_order() -> None:
    progress, cancelled, left = interrupted(can_turn_back=True, times=2)
    assert (cancelled, left, progress.closed) == (["cancelled"], [ExitCode.FAILED], True)
    assert "runs on here" in progress.notes[1]


def test_after_the_hand_over_began_the_first_cancels_nothing() -> None:
    progress, cancelled, left = interrupted(can_turn_back=False, times=1)
    assert cancelled == [] and left == []
    assert "too late to roll back" in progress.notes[0]


def test_after_the_hand_over_began_the_second_leaves_in_doubt_and_names_the_command() -> None:
    progress, cancelled, left = interrupted(can_turn_back=False, times=2)
    assert cancelled == [] and left == [ExitCode.IN_DOUBT]
    assert "migrate resolve abc" in progress.notes[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_work_which_may_clean_up(number: signal.Signals) -> None:
    cleaned = []

    async def work() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("cleaned")

    with pytest.raises(Interrupted):
        run(work(), Progress(can_turn_back=True))
    assert cleaned == ["cleaned"]


def test_work_that_tells_its_own_ending_when_cancelled_is_believed() -> None:
    async def work() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "rolled back"
        return "?"

    assert run(work(), Progress(can_turn_back=True)) == "rolled back"
