"""Which workload goes to which host, and when: pure, and quick for a thousand hosts.

A destination must be reachable and not cordoned, have the labels asked for, the CPU features of the source and room
for the memory, and must not hold another workload of the same `apart` group, nor a process with the PID, nor one that
listens on a TCP port of it. Whoever plans has preflight look at the moves, and plans again without those it refuses.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Order: TypeAlias = Literal["size", "dirty-rate", "priority"]

RESERVE: Final = 1.1  # memory that a copy takes while it lands, over what it has
USUAL_RATE: Final = 200e6  # bytes per second through SSH; measured
EXPLAINED_AT_MOST: Final = 100  # hosts whose reasons are told of a workload that stays
FIXED_S: Final = 3.0  # connecting, preflight, the last round
ASKED_AT_MOST: Final = 3  # destinations that a workload is tried with; what refuses it there mostly does everywhere
OF_A_KIND: Final = 32  # so many with the same ports are worth a queue of their own


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that could take something. `groups`: the `apart` groups it holds; `pids` and `ports`: those in use."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    free_bytes: int = 0
    cpu_flags: frozenset[str] = frozenset()
    cordoned: bool = False
    unreachable: str = ""
    groups: frozenset[str] = frozenset()
    pids: frozenset[int] = frozenset()
    ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Load:
    """A workload to place. `needs`: labels its destination must have; `keeps_pid`: it cannot do with another PID;
    `any_instructions`: it does without those that a destination's CPU lacks; `refused`: hosts whose preflight said no,
    and why; `settled`: the one whose preflight had nothing against it."""

    pid: int
    name: str
    memory_bytes: int
    priority: int = 0
    faults_per_s: float = 0.0
    apart: str | None = None
    needs: Mapping[str, str] = field(default_factory=dict)
    never_move: bool = False
    keeps_pid: bool = True
    ports: frozenset[int] = frozenset()
    any_instructions: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    settled: str = ""

    @property
    def is_hopeless(self) -> bool:
        """Enough hosts have been asked in vain."""
        return len(self.refused) >= ASKED_AT_MOST


@dataclass(frozen=True, slots=True)
class Wish:
    """What the drain asks for. `to` empty: any host; `seconds`: what the window gives, None without one."""

    to: tuple[str, ...] = ()
    to_labels: Mapping[str, str] = field(default_factory=dict)
    order: Order = "priority"
    max_parallel: int = 2
    max_parallel_per_destination: int = 1
    bytes_per_s: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A workload's new place; `begins_s` and `takes_s` are predictions."""

    load: Load
    destination: str
    begins_s: float
    takes_s: float


@dataclass(frozen=True, slots=True)
class Stays:
    """A workload that cannot go, and why."""

    load: Load
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: every workload is in one of the two."""

    moves: tuple[Move, ...]
    stays: tuple[Stays, ...]

    @property
    def takes_s(self) -> float:
        """When the last one is expected to be through."""
        return max((move.begins_s + move.takes_s for move in self.moves), default=0.0)


@dataclass(slots=True)
class _Room:
    host: Candidate
    free_bytes: int
    groups: set[str]
    pids: set[int]
    ports: set[int]


def plan(source: Candidate, loads: Iterable[Load], hosts: Iterable[Candidate], wish: Wish) -> Plan:
    """Place every load of `source`, the most urgent first, each where most memory stays free; then time the moves.

    Those that are settled come first of all, and go where they are.
    """
    rooms = [
        _Room(host, host.free_bytes, set(host.groups), set(host.pids), set(host.ports))
        for host in hosts
        if host.name != source.name
    ]
    loads = list(loads)
    alike = Counter(load.ports for load in loads)
    open_rooms = [index for index, room in enumerate(rooms) if not _why_not_at_all(room.host, wish)]
    queues: dict[tuple[object, ...], list[tuple[int, int]]] = {}
    placed = _settle(loads, source, [rooms[index] for index in open_rooms])
    stays: list[Stays] = []
    for load in sorted(loads, key=lambda load: _urgency(load, wish.order)):
        if load.pid in placed:
            continue
        common = load.ports if alike[load.ports] > OF_A_KIND else frozenset()
        kind = (load.apart, common, load.any_instructions, *sorted(load.needs.items()))
        if kind not in queues:
            queues[kind] = [(-rooms[index].free_bytes, index) for index in open_rooms]
            heapq.heapify(queues[kind])
        index = None if load.never_move or load.is_hopeless else _take_room(load, common, source, rooms, queues[kind])
        if index is None:
            stays.append(_stays(load, source, rooms, wish))
        else:
            placed[load.pid] = load, rooms[index].host.name
    in_turn = sorted(placed.values(), key=lambda one: _urgency(one[0], wish.order))
    moves, late = schedule(in_turn, wish)
    return Plan(tuple(moves), tuple([*stays, *late]))


def _settle(loads: Iterable[Load], source: Candidate, rooms: Iterable[_Room]) -> dict[int, tuple[Load, str]]:
    """By PID, what is settled and still fits where it is to go."""
    by_name = {room.host.name: room for room in rooms}
    found = {}
    for load in loads:
        room = by_name.get(load.settled)
        if room is not None and not _why_not_this(load, source, room):
            _reserve(load, room)
            found[load.pid] = load, load.settled
    return found


def schedule(placed: Sequence[tuple[Load, str]], wish: Wish) -> tuple[list[Move], list[Stays]]:
    """Begin each as soon as a slot is free, here and over there; what would not end within the window stays."""
    rate = min(USUAL_RATE, (wish.bytes_per_s or USUAL_RATE) / wish.max_parallel)
    slots = [0.0] * wish.max_parallel
    theirs: dict[str, list[float]] = {}
    moves: list[Move] = []
    late: list[Stays] = []
    for load, name in placed:
        over_there = theirs.setdefault(name, [0.0] * wish.max_parallel_per_destination)
        begins = max(slots[0], over_there[0])
        takes = predicted_s(load.memory_bytes, rate)
        if wish.seconds is not None and begins + takes > wish.seconds:
            reason = f"would end {begins + takes:.0f} s after the window opens, which is open for {wish.seconds:.0f} s"
            late.append(Stays(load, reason, "a longer window, more in parallel, or more bandwidth"))
            continue
        heapq.heapreplace(slots, begins + takes)
        heapq.heapreplace(over_there, begins + takes)
        moves.append(Move(load, name, begins, takes))
    return moves, late


def predicted_s(memory_bytes: int, bytes_per_s: float = USUAL_RATE) -> float:
    """How long a move is expected to take."""
    return FIXED_S + memory_bytes / bytes_per_s


def _urgency(load: Load, order: Order) -> tuple[float, float, int]:
    by_size = -float(load.memory_bytes)
    first = {"priority": -float(load.priority), "size": by_size, "dirty-rate": load.faults_per_s}[order]
    return first, by_size, load.pid


def _take_room(
    load: Load, common: frozenset[int], source: Candidate, rooms: list[_Room], queue: list[tuple[int, int]]
) -> int | None:
    """The room that takes it, with its memory reserved; the emptiest is asked first.

    `queue` is a heap of (-free bytes, room) for loads of this kind (same labels needed, same group, same `common`
    ports), and may be behind: a room has less by now than it says, never more. Rooms that will never do for the kind
    leave it.
    """
    need = int(load.memory_bytes * RESERVE)
    later: list[tuple[int, int]] = []
    found = None
    while queue and -queue[0][0] >= need:
        free, index = heapq.heappop(queue)
        room = rooms[index]
        if -free != room.free_bytes:
            heapq.heappush(queue, (-room.free_bytes, index))
        elif _never(load, source, room) or common & room.ports:
            continue
        elif (load.keeps_pid and load.pid in room.pids) or load.ports & room.ports or room.host.name in load.refused:
            later.append((free, index))
        else:
            _reserve(load, room)
            later.append((-room.free_bytes, index))
            found = index
            break
    for entry in later:
        heapq.heappush(queue, entry)
    return found


def _reserve(load: Load, room: _Room) -> None:
    room.free_bytes -= int(load.memory_bytes * RESERVE)
    room.groups |= {load.apart} if load.apart else set()
    room.pids.add(load.pid)
    room.ports |= load.ports


def _why_not_at_all(host: Candidate, wish: Wish) -> str:
    """Why nothing of this drain goes to the host; "" when it may."""
    if wish.to and host.name not in wish.to:
        return "is not one of the destinations asked for"
    if any(host.labels.get(key) != value for key, value in wish.to_labels.items()):
        return "has not the labels asked for"
    if host.cordoned:
        return "is cordoned"
    if host.unreachable:
        return f"cannot be reached: {host.unreachable}"
    return ""


def _never(load: Load, source: Candidate, room: _Room) -> str:
    """Why nothing of this kind goes to the host, whatever else moves; "" when it may."""
    host = room.host
    if any(host.labels.get(key) != value for key, value in load.needs.items()):
        return "has not the labels that the workload needs"
    missing = source.cpu_flags - host.cpu_flags
    if missing and not load.any_instructions:
        return f"its CPU lacks {', '.join(sorted(missing)[:4])}"
    if load.apart and load.apart in room.groups:
        return f"holds one of group {load.apart} already"
    return ""


def _why_not_this(load: Load, source: Candidate, room: _Room) -> str:
    """Why this workload does not go to the host; "" when it may."""
    if room.host.name in load.refused:
        return load.refused[room.host.name]
    need = int(load.memory_bytes * RESERVE)
    if need > room.free_bytes:
        return f"has {_mib(room.free_bytes)} MiB free, {_mib(need)} are needed"
    if load.keeps_pid and load.pid in room.pids:
        return f"has a process with PID {load.pid}"
    if taken := load.ports & room.ports:
        return f"has somebody who listens on port {min(taken)}"
    return _never(load, source, room)


def _stays(load: Load, source: Candidate, rooms: list[_Room], wish: Wish) -> Stays:
    if load.never_move:
        return Stays(load, "is marked never_move", "move or stop it by hand, or change the inventory")
    if load.is_hopeless:
        parts = [f"{name}: {why}" for name, why in load.refused.items()]
        return Stays(load, "; ".join(parts), "what preflight names, on any host; no other host was asked")
    reasons: dict[str, list[str]] = {}
    first = sorted(rooms, key=lambda room: room.host.name not in load.refused)
    for room in first[:EXPLAINED_AT_MOST]:
        why = _why_not_at_all(room.host, wish) or _why_not_this(load, source, room)
        reasons.setdefault(why, []).append(room.host.name)
    if not rooms:
        return Stays(load, "there is no other host", "add one to the inventory")
    parts = [f"{_names(names)} {why}" for why, names in reasons.items()]
    if len(rooms) > EXPLAINED_AT_MOST:
        parts.append(f"nor did one of the other {len(rooms) - EXPLAINED_AT_MOST} hosts do")
    return Stays(load, "; ".join(parts), "free memory or add a host; `--to` and labels narrow the choice")


def _names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") + ":"


def _mib(count: int) -> int:
    return count >> 20
