"""An ordered tree of kernel objects that only kcmp(2) can tell apart: one number per object.

Owns the order and the numbers; what is compared, and how, comes in as a function. No I/O of its own.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

R = TypeVar("R")


class Order(IntEnum):
    """What kcmp(2) answers."""

    EQUAL = 0
    LESS = 1
    GREATER = 2
    UNORDERED = 3  # different, and the kernel does not say which comes first


@dataclass(frozen=True, slots=True)
class _Known(Generic[R]):
    reference: R
    id: int


class KcmpTree(Generic[R]):
    """Objects by reference (a pid, or a pid and a descriptor). Equal references get equal numbers.

    A cheap key (device, inode, position) comes first: references whose keys differ are different objects and are never
    compared. Among equal keys the kernel's order makes an insert O(log n) comparisons.
    """

    def __init__(self, compare: Callable[[R, R], int], next_id: Callable[[], int]) -> None:
        self._compare = compare
        self._next_id = next_id
        self._groups: dict[Hashable, list[_Known[R]]] = {}

    def insert(self, reference: R, key: Hashable = None) -> tuple[int, bool]:
        """Number of the object behind `reference`, and True when it was not known before."""
        group = self._groups.setdefault(key, [])
        position, found = self._find(group, reference)
        if found is not None:
            return found, False
        known = _Known(reference, self._next_id())
        group.insert(position, known)
        return known.id, True

    def _find(self, group: list[_Known[R]], reference: R) -> tuple[int, int | None]:
        """Where `reference` belongs in `group`, and its number if it is there."""
        low, high = 0, len(group)
        while low < high:
            middle = (low + high) // 2
            match Order(self._compare(reference, group[middle].reference)):
                case Order.EQUAL:
                    return middle, group[middle].id
                case Order.LESS:
                    high = middle
                case Order.GREATER:
                    low = middle + 1
                case Order.UNORDERED:
                    return low, self._find_one_by_one(group, reference)
        return low, None

    def _find_one_by_one(self, group: list[_Known[R]], reference: R) -> int | None:
        """Without an order every member has to be asked."""
        equal = (known.id for known in group if self._compare(reference, known.reference) == Order.EQUAL)
        return next(equal, None)


def count_from(first: int) -> Callable[[], int]:
    """A function that returns first, first + 1, …"""
    numbers: Iterator[int] = iter(range(first, 1 << 32))
    return lambda: next(numbers)
