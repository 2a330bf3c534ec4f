"""How much memory a tree takes: pages that several processes share are counted once. Claims nothing."""

from collections.abc import Iterable
from pathlib import Path

from tests.hosts import Host


def pss_bytes(host: Host, pids: Iterable[int]) -> int:
    """Proportional set sizes added up."""
    return sum(_pss(host.path(f"/proc/{pid}/smaps_rollup")) for pid in pids)


def _pss(rollup: Path) -> int:
    line = next(line for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) << 10
