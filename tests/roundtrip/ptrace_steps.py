"""Lets something happen at step number N of a dump or live attachment: a step is a ptrace call or a write."""

import itertools
import os
import signal
from collections.abc import Callable

import pytest

from core.kernel import ptrace
from core.tracee.remote import RemoteMemory

DOORS = ("stop_threads", "read_threads", "write_registers", "write_sigmask", "read_registers", "resume", "interrupt",
         "wait_stop")  # fmt: skip


def instead_of(step: int, patch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Let `happen` happen before call number `step`, once."""
    calls = itertools.count()

    def counting(door: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if next(calls) == step:
                happen()
            return door(*args, **kwargs)

        return call

    for name in DOORS:
        patch.setattr(ptrace, name, counting(getattr(ptrace, name)))
    patch.setattr(RemoteMemory, "write", counting(RemoteMemory.write))


def die() -> None:
    """As kill -9 would have it."""
    os.kill(os.getpid(), signal.SIGKILL)
