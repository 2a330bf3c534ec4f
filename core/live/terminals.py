"""Which sessions of a running tree are led from a terminal of the tree: what their leaders have to be born with."""

import os
from collections.abc import Mapping
from contextlib import suppress

from core.images.pb.tty_pb2 import TtyInfoEntry
from core.kernel.calls import pidfd_getfd
from core.proc.reader import ProcReader
from core.resources import terminal
from core.tracee.family import Family


def find_controlling(family: Family, pidfds: Mapping[int, int], reader: ProcReader) -> list[TtyInfoEntry]:
    """The masters of these terminals, by number. `pidfds` of those of the tree that may have them, by pid."""
    wanted = {terminal.number_of_device(one.terminal) for one in family.living if one.sid == one.own_pid} - {None}
    found: dict[int, TtyInfoEntry] = {}
    for pid, pidfd in pidfds.items() if wanted else ():
        with suppress(OSError):  # it ended, or closed one meanwhile
            for fd in reader.fds(pid):
                if reader.fd_link(pid, fd).endswith("/ptmx"):
                    entry = _collect(pidfd_getfd(pidfd, fd))
                    found[entry.id] = entry
    return [entry for _, entry in sorted(found.items()) if entry.sid and entry.pty.index in wanted]


def _collect(master: int) -> TtyInfoEntry:
    try:
        return terminal.collect_end(master, is_master=True)
    finally:
        os.close(master)
