"""What a live source tells of its tree: after each round, and at the freeze."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from core.images.pb.tty_pb2 import TtyInfoEntry
from core.images.store import ImageSet
from core.live.process import LiveProcess
from core.live.shared_file import SharedFile
from core.memory.ranges import Ranges
from core.tracee.family import Family


@dataclass(frozen=True, slots=True)
class Scanned:
    """A pre-copy round: who is there (as images), and how long anything stood still for it.

    `compared_s`: what comparing memory with what went over took, which the freeze will have to do again. `mould`: what
    several have in common, by the own pid of whom to read it from. It is to land before they are born
    over there, and then comes another scan.
    """

    tree: ImageSet
    stopped_s: float
    compared_s: float
    mould: Mapping[int, Ranges] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Froze:
    """The tree at the freeze: who is there, all but the pages, and by own pid or segment what is given up since.

    `ran_s`: how long it ran on when it was to be stopped, for what is better done before.
    """

    tree: ImageSet
    images: ImageSet
    gone: dict[int, Ranges]
    phases: tuple[tuple[str, float], ...]
    ran_s: float


def compared_s(processes: Mapping[int, LiveProcess], files: Iterable[SharedFile]) -> float:
    """What comparing took at the last look."""
    return sum(one.compared_s for one in processes.values()) + sum(one.compared_s for one in files)


def shape_of(
    family: Family, processes: Mapping[int, LiveProcess], terminals: Iterable[TtyInfoEntry]
) -> tuple[object, ...]:
    """What is born anew over there when it is not the same any more: the tree, and who runs which program."""
    members = ((one.own_pid, one.parent, one.pgid, one.sid, one.is_dead) for one in family.members)
    programs = ((pid, process.kernel_vmas) for pid, process in processes.items())
    return (*members, *programs, *((one.id, one.sid) for one in terminals))
