"""Which sessions of a running tree are led from a terminal of the tree: what their leaders have to be born with."""

import os
from collections.abc import Iterable
from contextlib import suppress

from core.images.pb.tty_pb2 import TtyInfoEntry
from core.kernel.calls import pidfd_getfd
from core.prepare import Prepared
from core.proc.reader import ProcReader
from core.resources import terminal
from core.tracee.family import Family


def find_controlling(family: Family, prepared: Iterable[Prepared], reader: ProcReader) -> list[TtyInfoEntry]:
    """The masters of these terminals, by number. `prepared`: who may have them."""
    wanted = {terminal.number_of_device(one.terminal) for one in family.living if one.sid == one.own_pid} - {None}
    found: dict[int, TtyInfoEntry] = {}
    for one in prepared if wanted else ():
        with suppress(OSError):  # it ended, or closed one meanwhile
            for fd in reader.fds(one.pid):
                if reader.fd_link(one.pid, fd).endswith("/ptmx"):
                    entry = _collect(pidfd_getfd(one.pidfd, fd))
                    found[entry.id] = entry
    return [entry for _, entry in sorted(found.items()) if entry.sid and entry.pty.index in wanted]


def _collect(master: int) -> TtyInfoEntry:
    try:
        return terminal.collect_end(master, is_master=True)
    finally:
        os.close(master)
