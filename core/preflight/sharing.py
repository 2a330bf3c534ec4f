"""Refusals of what processes share by clone(2): with outsiders, or memory in a way that cannot be had again."""

from collections.abc import Mapping, Sequence
from typing import Final

from core.errors import Blocker
from core.ids.shared import KCMP_FILES, KCMP_FS, KCMP_VM
from core.ids.tree import Order
from core.kernel.calls import kcmp
from core.proc.main_thread import main_threads
from core.proc.reader import ProcReader
from core.tracee.family import Family, has_ended
from core.tracee.vfork import is_vfork

KINDS: Final = {KCMP_VM: "memory", KCMP_FILES: "descriptor table", KCMP_FS: "working directory and umask"}
COUSIN_HINT: Final = "such a tree cannot be made anew: wait until one of them has ended"
OUTSIDE_HINT: Final = "move the process that is the parent of both, or end the other one"


def refuse_sharing(reader: ProcReader, family: Family) -> list[Blocker]:
    """Everything that a living process of the tree shares and that does not move along."""
    mine = [member.pid for member in family.living]
    others = main_threads(reader, family.pids)
    found = []
    for kind in KINDS:
        for group in _groups([*mine, *others], kind):
            found += _judge_group(reader, set(mine), group, kind)
    return found


def _judge_group(reader: ProcReader, mine: set[int], group: Sequence[int], kind: int) -> list[Blocker]:
    member = next((pid for pid in group if pid in mine), 0)
    partners = [pid for pid in group if pid not in mine]
    if not member or not partners or has_ended(member, reader):  # what has ended has nothing, all of it the same
        return []
    partner = partners[0]
    if has_ended(partner, reader) or is_vfork(member, partner, reader) or is_vfork(partner, member, reader):
        return []
    reason = f"shares its {KINDS[kind]} with process {partner} ({_name(reader, partner)})"
    return [Blocker("shared-task", f"pid {member}", reason, OUTSIDE_HINT)]


def refuse_kinship(reader: ProcReader, family: Family, sharers: Mapping[int, int]) -> list[Blocker]:
    """Of those who share their memory (`sharers`: see find_sharers): whose parent has it not, and no older sibling."""
    found: list[Blocker] = []
    seen: dict[int, set[int]] = {}  # by the first of those that share: who may bear another, and their parents
    for member in family.living:
        first = sharers.get(member.pid, member.pid)
        bearers = seen.setdefault(first, {member.parent})
        if member.parent not in bearers:
            reason = f"shares its memory with process {first} ({_name(reader, first)}): neither parent nor sibling"
            found.append(Blocker("shared-task", f"pid {member.pid}", reason, COUSIN_HINT))
        bearers |= {member.own_pid, member.parent}
    return found


def _name(reader: ProcReader, pid: int) -> str:
    try:
        return reader.comm(pid)
    except OSError:
        return "ended"


def _groups(pids: Sequence[int], kind: int) -> list[list[int]]:
    """Those of `pids` that share their object with others, in groups; who goes meanwhile is left out."""
    groups: list[list[int]] = []
    for pid in pids:
        _place(groups, pid, kind)
    return [group for group in groups if len(group) > 1]


def _place(groups: list[list[int]], pid: int, kind: int) -> None:
    low, high = 0, len(groups)
    while low < high:
        middle = (low + high) // 2
        try:
            order = Order(kcmp(pid, groups[middle][0], kind))
        except OSError:
            if not _can_compare(pid, kind):
                return
            groups[middle].pop(0)  # the other one has gone: again without it
            if not groups[middle]:
                del groups[middle]
            low, high = 0, len(groups)
            continue
        if order is Order.EQUAL:
            groups[middle].append(pid)
            return
        low, high = (low, middle) if order is Order.LESS else (middle + 1, high)
    if _can_compare(pid, kind):
        groups.insert(low, [pid])


def _can_compare(pid: int, kind: int) -> bool:
    try:
        return kcmp(pid, pid, kind) == Order.EQUAL
    except OSError:
        return False
