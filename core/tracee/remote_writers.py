"""Who writes into a tree by process_vm_writev(2), and waiting until they have: what they write reaches no tracker.

The call first makes up to 4 MiB of pages ready to be written, which counts as a store, and then copies into them past
all page tables. What a look finds in between is told by it, but may be old still when it is read.
"""

import os
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

from core.errors import CollectError, KernelLacks, TraceeError
from core.kernel.remote_writes import RemoteWrite, RemoteWrites, open_remote_writes
from core.proc.reader import ProcReader

ROUND_LIMIT_S: Final = 0.1  # how long a look waits for them
FREEZE_LIMIT_S: Final = 0.05  # and the freeze, for which the tree stands still
PAUSE_S: Final = 0.0002


@dataclass(slots=True)
class RemoteWriters:
    """Of all the host. `notice`: why they cannot be seen, "" when they can."""

    reader: ProcReader = field(default_factory=ProcReader)
    notice: str = ""
    _writes: RemoteWrites | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def open(self) -> None:
        """Before anything else; not needed where nothing but contents are compared."""
        try:
            self._writes = self._stack.enter_context(open_remote_writes())
        except KernelLacks as error:
            self.notice = f"{error}: what such a call copies in the moment of a look may be old in the copy"

    def close(self) -> None:
        """Let go of our descriptors. Idempotent."""
        self._writes = None
        self._stack.close()

    def settle(self, tgids: Collection[int], *, limit_s: float = ROUND_LIMIT_S, strange: bool = False) -> bool:
        """Wait for calls that write into one of these processes (`strange`: calls of others alone); whether all that
        were in flight have ended."""
        return not self._wait(tgids, limit_s, strange=strange)

    def refuse(self, pid: int, tgids: Collection[int]) -> None:
        """The same of a tree that stands still, by its root; TraceeError when one does not end."""
        if left := self._wait(tgids, FREEZE_LIMIT_S, strange=False):
            target = f"pid {left[0].target}" + (" of its PID namespace" if self._is_far(left[0]) else "")
            reason = f"process {left[0].pid} is writing into {target} (process_vm_writev) and does not end"
            raise TraceeError(pid, reason, hint="let it end, or try again")

    def _wait(self, tgids: Collection[int], limit_s: float, *, strange: bool) -> list[RemoteWrite]:
        if self._writes is None:
            return []
        began = now = time.monotonic()
        own = set(tgids) if strange else set()
        left = [one for one in self._in_flight() if one.pid not in own and self._writes_into(one, tgids)]
        while left and now - began < limit_s:
            asked = time.monotonic()
            still = set(self._in_flight())
            now = time.monotonic()
            if left := [one for one in left if one in still]:
                time.sleep(max(PAUSE_S, 2 * (now - asked)))
        return left

    def _in_flight(self) -> list[RemoteWrite]:
        try:
            return self._writes.in_flight() if self._writes is not None else []
        except OSError as error:
            reason = f"cannot be looked for: {error.strerror}"
            raise CollectError("calls of process_vm_writev", reason, hint="try again") from error

    def _writes_into(self, write: RemoteWrite, tgids: Collection[int]) -> bool:
        """Its target's number is one of ours; in a PID namespace below ours it may be any of those in there."""
        try:
            if self._is_far(write):
                return write.target in self._numbers_inside(tgids)
            return write.pid != os.getpid() and self.reader.status(write.target).tgid in tgids
        except (FileNotFoundError, ProcessLookupError):  # the caller has ended, or its target
            return False

    def _is_far(self, write: RemoteWrite) -> bool:
        return self.reader.namespace(write.tid, "pid") != self.reader.namespace(os.getpid(), "pid")

    def _numbers_inside(self, tgids: Collection[int]) -> set[int]:
        """What their threads are called in PID namespaces below ours."""
        found: set[int] = set()
        for tgid in tgids:
            with suppress(FileNotFoundError, ProcessLookupError):
                if len(self.reader.status(tgid).ns_pid) > 1:
                    tids = self.reader.tids(tgid)
                    found.update(number for tid in tids for number in self.reader.status(tgid, tid).ns_pid[1:])
        return found
