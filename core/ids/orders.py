"""The kernel's order of tasks by what they share, as it was last found: the next time one comparison each is enough.

Never believed: it is asked again every time.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from core.kernel.calls import find_shared

LAST: Final = 1 << 62


@dataclass(slots=True)
class TaskOrders:
    """By kcmp(2)'s kind: which place each task had. For the tasks of one tree, from look to look."""

    _ranks: dict[int, dict[int, int]] = field(default_factory=dict)

    def find_shared(self, pids: Sequence[int], kind: int) -> list[int]:
        """The place of the first in `pids` that shares an object with each. OSError as find_shared of core.kernel."""
        get = self._ranks.get(kind, {}).get
        ranks = [get(pid, LAST) for pid in pids]
        found = find_shared(pids, kind, likely=sorted(range(len(pids)), key=ranks.__getitem__))
        self._ranks[kind] = {pids[place]: rank for rank, place in enumerate(found.order)}
        return found.places

    def learn(self, pids: Sequence[int], kinds: Sequence[int]) -> None:
        """Those of tasks that run, of which any may end meanwhile."""
        with suppress(OSError):
            for kind in kinds:
                self.find_shared(pids, kind)
