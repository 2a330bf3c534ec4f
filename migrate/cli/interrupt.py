"""Runs a migration in an event loop and turns Ctrl-C (and SIGTERM, SIGHUP) into what is safe at that moment."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

from migrate.cli.watch import ExitCode
from migrate.errors import Interrupted

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Progress(Protocol):
    """What has to be known of the migration: migrate.cli.watch.Watch."""

    @property
    def can_turn_back(self) -> bool:
        """True until the hand-over begins."""

    @property
    def resolve_command(self) -> str:
        """What settles it when we leave."""

    def note(self, text: str) -> None:
        """Tell the person."""

    def close(self) -> None:
        """Give the terminal back."""


class Interruption:
    """What the first signal does, and the second. The keepers make leaving safe at any moment: without us they let the
    process run on before the hand-over, and keep it stopped after."""

    def __init__(self, progress: Progress, cancel: Callable[[], object], leave: Callable[[int], object]) -> None:
        self._progress = progress
        self._cancel = cancel
        self._leave = leave
        self.count = 0

    def __call__(self) -> None:
        """One more signal."""
        self.count += 1
        if self._progress.can_turn_back:
            self._before_hand_over()
        else:
            self._after_hand_over()

    def _before_hand_over(self) -> None:
        if self.count == 1:
            self._progress.note("interrupted: rolling back, the process runs on here (once more: leave at once)")
            self._cancel()
        else:
            self._progress.note("leaving at once: both keepers clean up by themselves, the process runs on here")
            self._go(ExitCode.FAILED)

    def _after_hand_over(self) -> None:
        if self.count == 1:
            self._progress.note(
                "interrupted too late to roll back: finishing the hand-over (once more: leave at once, in doubt)"
            )
        else:
            self._progress.note(f"leaving in doubt; this settles it: {self._progress.resolve_command}")
            self._go(ExitCode.IN_DOUBT)

    def _go(self, code: ExitCode) -> None:
        self._progress.close()
        self._leave(code)


def run(work: Coroutine[object, object, T], progress: Progress) -> T:
    """The result of `work`; Interrupted when a signal ended it."""
    return asyncio.run(_guarded(work, progress))


async def _guarded(work: Coroutine[object, object, T], progress: Progress) -> T:
    task = asyncio.ensure_future(work)
    interruption = Interruption(progress, task.cancel, _leave)
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, interruption)
    try:
        return await task
    except asyncio.CancelledError:
        if interruption.count:
            raise Interrupted("interrupted") from None
        raise
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def _leave(code: int) -> None:
    """Go without unwinding: whatever still waits for the other host is what the user does not want to wait for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
