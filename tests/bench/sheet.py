"""What was measured: values of several runs under a name, and their spread. Prints nothing."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

HEADINGS = ("", "unit", "n", "min", "median", "max")


@dataclass(frozen=True, slots=True)
class Scale:
    """How big and how often: FULL is `make bench`, TINY only shows that everything still runs."""

    runs: int
    image_mib: tuple[int, ...]
    live_mib: int
    rounds: int
    threads: tuple[int, ...]
    trees: tuple[int, ...]
    file_tasks: int
    moves: int
    fleet_hosts: int
    histories: int
    descriptors: tuple[int, int]


FULL = Scale(
    runs=5,
    image_mib=(1024, 4096),
    live_mib=256,
    rounds=6,
    threads=(50, 500, 5000),
    trees=(10, 100, 1000),
    file_tasks=100,
    moves=5,
    fleet_hosts=1000,
    histories=1000,
    descriptors=(1000, 10_000),
)
TINY = Scale(
    runs=1,
    image_mib=(8,),
    live_mib=8,
    rounds=2,
    threads=(5,),
    trees=(3,),
    file_tasks=3,
    moves=1,
    fleet_hosts=20,
    histories=3,
    descriptors=(20, 40),
)


@dataclass(frozen=True, slots=True)
class Row:
    """All values of one figure, in the order of the runs."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def spread(self) -> tuple[float, float, float]:
        """Minimum, median, maximum."""
        return min(self.values), statistics.median(self.values), max(self.values)

    def cells(self) -> tuple[str, ...]:
        """One line of the table."""
        return (self.name, self.unit, str(len(self.values)), *(number(value) for value in self.spread))


@dataclass(slots=True)
class Sheet:
    """The rows of one bench, in the order they were first seen."""

    rows: dict[str, Row] = field(default_factory=dict)

    def add(self, name: str, unit: str, value: float) -> None:
        """One more value of the figure `name`."""
        self.rows.setdefault(name, Row(name, unit)).values.append(value)

    def ms(self, name: str, seconds: float) -> None:
        """A time, told in milliseconds."""
        self.add(name, "ms", seconds * 1e3)

    def ratio(self, name: str, value: float, floor: float) -> None:
        """How many times `floor`, measured in the same run, `value` is."""
        self.add(name, "×", value / floor if floor else float("nan"))

    def record(self) -> list[dict[str, Any]]:
        """For JSON."""
        keys = ("min", "median", "max")
        return [{**asdict(row), **dict(zip(keys, row.spread, strict=True))} for row in self.rows.values()]


def number(value: float) -> str:
    """Three digits that matter, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(title: str, rows: Iterable[Row]) -> str:
    """Lines of equal columns."""
    lines = [(title, *HEADINGS[1:]), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    left = {0, 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
