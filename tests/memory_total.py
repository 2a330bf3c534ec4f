"""How much memory a tree takes: pages that several processes share are counted once. Claims nothing."""

from collections.abc import Iterable
from pathlib import Path

from tests.hosts import Host


def pss_bytes(host: Host, pids: Iterable[int]) -> int:
    """Proportional set sizes added up, without pages of files: those others may share, who come and go."""
    return sum(_pss(host.path(f"/proc/{pid}/smaps_rollup")) for pid in pids)


def _pss(rollup: Path) -> int:
    sizes = dict(line.split()[:2] for line in rollup.read_text().splitlines()[1:])
    return int(sizes["Pss_Anon:"]) + int(sizes["Pss_Shmem:"]) << 10
