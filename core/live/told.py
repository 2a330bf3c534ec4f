"""What a live source tells of its tree: after each round, and at the freeze."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.images.store import ImageSet
from core.memory.ranges import Ranges


@dataclass(frozen=True, slots=True)
class Scanned:
    """A pre-copy round: who is there (as images), and how long anything stood still for it.

    `mould`: what several have in common, by the own pid of whom to read it from. It is to land before they are born
    over there, and then comes another scan.
    """

    tree: ImageSet
    stopped_s: float
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
