"""Moves freshly made descriptors to the numbers they must have. Pure; knows numbers only, not what is behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fcntl import F_DUPFD, F_SETFD, FD_CLOEXEC
from os import O_CLOEXEC

from core.plan.ops import FdAllocator, Program, Syscall


@dataclass(frozen=True, slots=True)
class Wanted:
    """A descriptor that shall exist: its number, close-on-exec or not, and how messages name it."""

    fd: int
    cloexec: bool
    why: str


def place(made: Mapping[int, Sequence[Wanted]], fds: FdAllocator) -> Program:
    """Ops that give each open file in `made` (by the number it has) all its numbers and no other.

    No wanted number may be in use but by members of `made`: make files in ascending order of their first number.
    """
    ops: list[Syscall] = []
    if _collide(made):
        made, moves = _move_aside(made, fds)
        ops += moves
    for number, wanted in made.items():
        ops += _place_one(number, wanted, fds)
    return tuple(ops)


def _collide(made: Mapping[int, Sequence[Wanted]]) -> bool:
    """True when one file sits on a number that another shall have, as the two ends of a pipe may."""
    return any(
        one.fd == number for number in made for other, wanted in made.items() if other != number for one in wanted
    )


def _move_aside(
    made: Mapping[int, Sequence[Wanted]], fds: FdAllocator
) -> tuple[dict[int, Sequence[Wanted]], list[Syscall]]:
    """All of them to numbers that nobody wants."""
    all_wanted = {one.fd for wanted in made.values() for one in wanted}
    ops: list[Syscall] = []
    aside: dict[int, Sequence[Wanted]] = {}
    for number, wanted in made.items():
        spare = next(fd for fd in range(len(fds.used) + len(all_wanted) + 1) if fd not in fds.used | all_wanted)
        fds.used.add(spare)
        ops.append(Syscall("fcntl", (number, F_DUPFD, spare), f"{wanted[0].why}: aside"))
        aside[spare] = wanted
    for number, wanted in made.items():
        ops.append(Syscall("close", (number,), f"{wanted[0].why}: moved aside"))
        fds.release(number)
    return aside, ops


def _place_one(number: int, wanted: Sequence[Wanted], fds: FdAllocator) -> list[Syscall]:
    ops: list[Syscall] = []
    for one in wanted:
        fds.used.add(one.fd)
        if one.fd != number:
            ops.append(Syscall("dup3", (number, one.fd, O_CLOEXEC if one.cloexec else 0), f"{one.why}: to its number"))
        elif one.cloexec:
            ops.append(Syscall("fcntl", (number, F_SETFD, FD_CLOEXEC), f"{one.why}: close-on-exec"))
    if all(one.fd != number for one in wanted):
        ops.append(Syscall("close", (number,), f"{wanted[0].why}: the number it was made with"))
        fds.release(number)
    return ops
