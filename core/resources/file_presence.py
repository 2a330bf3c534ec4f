"""Which files of a tree's images are on this host, and the same: asked before anything is made of them."""

from collections.abc import Iterable

from core.errors import Blocker
from core.images.pb.files_pb2 import FdTypes
from core.images.store import ImageSet
from core.plan.ghost_names import ghosts_by_file, kept_paths, linked_names
from core.proc.process_files import whose
from core.resources import fanotify, inotify, regular_file, unix_socket
from core.resources.ghost_store import refuse_folder
from core.resources.table_plan import Files, Table


def verify(images: ImageSet, tables: Iterable[int], root: str = "/") -> list[Blocker]:
    """On the destination, before anything is made: files below `root` that are absent or differ, names taken. Each once
    in all of the `tables`."""
    files = Files(images)
    ghosts, linked, kept = ghosts_by_file(images), linked_names(images), kept_paths(images)
    found: list[Blocker | None] = []
    for id, table in _first_tables(files, tables).items():
        entry = table.made_together(id)[0]
        if id in ghosts:
            found.append(refuse_folder(entry.reg.name, root))
        elif entry.type == FdTypes.FIFO and entry.fifo.regf_id not in ghosts:
            found.append(regular_file.verify(table.path_of(entry).reg, table.why(id), root))
        elif entry.type == FdTypes.FANOTIFY:
            found.append(fanotify.verify(entry.ffy, table.why(id), root))
        elif entry.type == FdTypes.INOTIFY:
            found.append(inotify.verify(entry.ify, table.why(id), root))
        elif entry.type == FdTypes.REG and entry.reg.name not in kept and not _is_of_tree(entry.reg.name, files):
            found.append(regular_file.verify(entry.reg, table.why(id), root, linked.get(id)))
        elif entry.type == FdTypes.UNIXSK:
            found.append(unix_socket.verify(entry.usk, table.why(id), root))
            if (outside := table.sockets.outside.get(entry.usk.peer)) is not None:
                found.append(unix_socket.verify(outside, table.why(id), root))
    return [blocker for blocker in found if blocker is not None]


def _is_of_tree(path: str, files: Files) -> bool:
    """A file of /proc that is there as soon as the tree is."""
    shows = whose(path)
    return shows is not None and shows.pid in files.sessions


def _first_tables(files: Files, tables: Iterable[int]) -> dict[int, Table]:
    """What the tables have and what is in flight to them: each file with the first table that leads to it."""
    found: dict[int, Table] = {}
    for table in (Table(files, files_id) for files_id in tables):
        for id in (*table.by_id, *files.sockets.in_flight(table.by_id)):
            found.setdefault(id, table)
    return found
