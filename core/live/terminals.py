"""Which sessions of a running tree are led from a terminal of the tree, and the terminals outside that others stand in
for: what their leaders have to be born with."""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

from core.errors import CollectError
from core.images import kinds
from core.images.pb.tty_pb2 import TtyInfoEntry
from core.images.store import ImageSet
from core.kernel.calls import pidfd_getfd
from core.plan.terminals import master_id, masters, outside
from core.prepare import Prepared
from core.proc.reader import ProcReader
from core.resources import terminal
from core.tracee.family import Family, Member


def find_controlling(
    family: Family, prepared: Iterable[Prepared], reader: ProcReader, *, stand_in: bool
) -> list[TtyInfoEntry]:
    """The masters of these terminals, by number. `prepared`: who may have them; `stand_in`: for the root's own one, if
    that is outside, something else will."""
    wanted = {terminal.number_of_device(one.terminal) for one in family.living if one.sid == one.own_pid} - {None}
    found: dict[int, TtyInfoEntry] = {}
    for one in prepared if wanted else ():
        with suppress(OSError):  # it ended, or closed one meanwhile
            for fd in reader.fds(one.pid):
                if reader.fd_link(one.pid, fd).endswith("/ptmx"):
                    entry = _collect(pidfd_getfd(one.pidfd, fd))
                    found[entry.id] = entry
    inside = [entry for _, entry in sorted(found.items()) if entry.sid and entry.pty.index in wanted]
    number = terminal.number_of_device(family.members[0].terminal)
    if not stand_in or number is None or any(one.pty.index == number for one in inside):
        return inside
    return inside + [one for one in _collect_outside(family.members[0], {number}, reader) if one.id & 1]


def stand_in_for_outside(root: Member, images: ImageSet, reader: ProcReader) -> None:
    """Pairs in place of the terminals outside of a frozen tree; the images have entries of the slaves that are open."""
    numbers = outside(images)
    own = terminal.number_of_device(root.terminal)
    if own is not None and master_id(own) not in masters(images):
        numbers.add(own)
    entries = {entry.id: entry for entry in images.all(kinds.TTY_INFO)}
    for entry in _collect_outside(root, numbers, reader):
        if entry.id in entries:
            entries[entry.id].MergeFrom(entry)
        else:
            images.add(kinds.TTY_INFO, entry)


def _collect_outside(root: Member, numbers: Collection[int], reader: ProcReader) -> Iterator[TtyInfoEntry]:
    """Both ends of what is to stand in for these pseudo-terminals outside of the tree; the root takes over the session
    of its own one."""
    for number in sorted(numbers):
        path = f"{reader.path(root.pid, 'root')}/dev/pts/{number}"
        try:
            slave = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            reason = f"cannot be looked at: {error.strerror}"
            raise CollectError(f"terminal /dev/pts/{number}", reason, hint=terminal.PATH_HINT) from error
        try:
            is_own = terminal.number_of_device(root.terminal) == number
            group = terminal.own_number(reader.stat(root.pid).tpgid) if is_own else 0
            yield from terminal.collect_outside_pair(slave, root.own_pid if is_own else 0, group)
        finally:
            os.close(slave)


def _collect(master: int) -> TtyInfoEntry:
    try:
        return terminal.collect_end(master, is_master=True)
    finally:
        os.close(master)
