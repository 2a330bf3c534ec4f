"""Sends every received frame's pages to the skeleton, or the shared memory, whose they are."""

import errno
from collections.abc import Mapping

from core import Buffer, LandingFile, LandingMemory, Ranges


class PageLander:
    """The skeletons and deleted files by mm_id (the caller may add to the mapping between rounds, and closes them)."""

    def __init__(self, memories: Mapping[int, LandingMemory | LandingFile]) -> None:
        self._memories = memories

    def land(self, mm_id: int, runs: Ranges, memory: Buffer) -> None:
        """See receiver.Landing."""
        self._memory(mm_id).land(runs, memory)

    def zero(self, mm_id: int, runs: Ranges) -> None:
        """See receiver.Landing."""
        self._memory(mm_id).zero(runs)

    def _memory(self, mm_id: int) -> LandingMemory | LandingFile:
        memory = self._memories.get(mm_id)
        if memory is None:
            raise OSError(errno.ENXIO, "no skeleton was prepared for it")
        return memory
