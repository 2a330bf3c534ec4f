"""What is made of a tree while it runs, for its freeze: taken there only where what it was made of is the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.collect_memory import ForeseenSpaces, Space
from core.collect_threads import questions
from core.ids.orders import TaskOrders
from core.ids.shared import KCMP_FILES, KCMP_FS, KCMP_SIGHAND
from core.options import DumpOptions
from core.proc.reader import ProcReader
from core.resources import foresight
from core.resources.shared_memory import Segments
from core.resources.sightings import Sightings


@dataclass(slots=True)
class Foreseen:
    """For one migration: kept from look to look. `close` gives back what is ours."""

    sightings: Sightings = field(default_factory=Sightings)  # of descriptors
    orders: TaskOrders = field(default_factory=TaskOrders)
    spaces: ForeseenSpaces = field(default_factory=ForeseenSpaces)

    def look(
        self, tasks: Sequence[tuple[int, int]], reader: ProcReader, options: DumpOptions, segments: Segments
    ) -> None:
        """`tasks`: pid and pidfd of each; `segments`: the memory of memfds as far as it is known."""
        for leader in (True, False):
            questions(leader=leader)  # made once; there is no time to do it in the freeze
        foresight.foresee(tasks, reader, options, self.sightings, segments)
        self.orders.learn([pid for pid, _ in tasks], (KCMP_FILES, KCMP_FS, KCMP_SIGHAND))

    def look_at_memory(self, spaces: Sequence[Space], reader: ProcReader) -> None:
        """After all processes were looked at."""
        self.spaces.look(spaces, reader, self.sightings.files.next_id)

    def close(self) -> None:
        """Idempotent."""
        self.sightings.close()
