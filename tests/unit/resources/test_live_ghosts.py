"""Which files a live source carries beside the memory."""

import os
from pathlib import Path

from core.kernel.calls import pidfd_open
from core.live.ghosts import LiveGhosts
from core.live.mappers import Mappers
from core.proc.reader import ProcReader


def carried(ghosts: LiveGhosts) -> list[str]:
    """Paths, as of a look at the descriptors of this process."""
    pidfd = pidfd_open(os.getpid())
    try:
        ghosts.find([(os.getpid(), pidfd)], ProcReader(), Mappers())
    finally:
        os.close(pidfd)
    return [ghost.path for ghost in ghosts.ghosts if ghost.keeps_name]


def test_a_chosen_file_goes_along_when_it_is_closed_and_not_when_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ghosts = LiveGhosts(frozenset({str(path)}))
    try:
        with path.open("w") as file:
            file.write("line")
            file.flush()
            assert carried(ghosts) == [str(path)]
        assert carried(ghosts) == [str(path)]
        path.unlink()
        assert carried(ghosts) == []
    finally:
        ghosts.close()
