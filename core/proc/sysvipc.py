"""/proc/sysvipc: System V shared memory, message queues and semaphores of our IPC namespace."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from core.errors import Blocker
from core.proc.text import malformed


class SysvSegment(NamedTuple):
    """One line; sizes in bytes, `attached` counts VMAs, `mode` has SHM_DEST and SHM_LOCKED besides the permissions."""

    key: int
    id: int
    mode: int
    size: int
    creator_pid: int
    last_pid: int
    attached: int
    uid: int
    gid: int
    cuid: int
    cgid: int


def parse_sysv_segments(text: str, file: str = "sysvipc/shm") -> tuple[SysvSegment, ...]:
    """All segments. Source: sysvipc(7); the key is printed as a signed number."""
    found = []
    for number, line in enumerate(text.split("\n")[1:], 2):
        if not line:
            continue
        words = line.split()
        try:
            key, id, size, cpid, lpid, attached, uid, gid, cuid, cgid = (
                int(words[index]) for index in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10)
            )
            mode = int(words[2], 8)
        except (ValueError, IndexError):
            raise malformed(file, number, line) from None
        found.append(SysvSegment(key & 0xFFFFFFFF, id, mode, size, cpid, lpid, attached, uid, gid, cuid, cgid))
    return tuple(found)


class SysvQueue(NamedTuple):
    """One line: `size` bytes of text in `messages`, PIDs of who sent and received last (0: nobody)."""

    key: int
    id: int
    mode: int
    size: int
    messages: int
    sender: int
    receiver: int
    uid: int
    gid: int
    cuid: int
    cgid: int


class SysvSet(NamedTuple):
    """One line: how many `semaphores` it has."""

    key: int
    id: int
    mode: int
    semaphores: int
    uid: int
    gid: int
    cuid: int
    cgid: int


class SysvNeed(NamedTuple):
    """An object whose key and id have to be free over there. `kind`: shm, msg or sem."""

    key: int
    id: int
    kind: str = "shm"


class Named(Protocol):
    """What has a key and an id."""

    @property
    def key(self) -> int:
        """0: none."""

    @property
    def id(self) -> int:
        """Of the kernel."""


INDEXES: Final = 1 << 15  # of an id, below how often they were all given; more with ipcmni_extend, which few boot with
NAMES: Final = {"shm": "segment", "msg": "message queue", "sem": "semaphore set"}
REMOVING: Final = {"shm": "-m", "msg": "-q", "sem": "-s"}


def refuse_taken(need: SysvNeed, here: Sequence[Named]) -> Blocker | None:
    """Why it cannot be made where `here` are those of its kind. Pure. Source: ipc_idr_alloc in Linux' ipc/util.c."""
    for one in here:
        has_index = one.id % INDEXES == need.id % INDEXES
        if has_index or (need.key and one.key == need.key):
            taken = "id" if one.id == need.id else "index in its id" if has_index else "key"
            reason = f"its {taken} is taken over there (by id {one.id}, key {one.key:#x})"
            hint = f"ipcrm {REMOVING[need.kind]} {one.id} over there, if nobody needs that"
            subject = f"System V {NAMES[need.kind]} {need.id} (key {need.key:#x})"
            return Blocker(f"{need.kind}-taken", subject, reason, hint)
    return None


def parse_message_queues(text: str, file: str = "sysvipc/msg") -> tuple[SysvQueue, ...]:
    """All queues. Source: sysvipc(7)."""
    return tuple(SysvQueue(*row) for row in _rows(text, file, 11))


def parse_semaphore_sets(text: str, file: str = "sysvipc/sem") -> tuple[SysvSet, ...]:
    """All sets. Source: sysvipc(7)."""
    return tuple(SysvSet(*row) for row in _rows(text, file, 8))


def _rows(text: str, file: str, count: int) -> Iterator[list[int]]:
    """The first `count` numbers of each line; the key as it is used, the third (permissions) is octal."""
    for number, line in enumerate(text.split("\n")[1:], 2):
        if not line:
            continue
        words = line.split()[:count]
        try:
            row = [int(word, 8 if index == 2 else 10) for index, word in enumerate(words)]
            row[0] &= 0xFFFFFFFF
            if len(row) < count:
                raise ValueError
        except (ValueError, IndexError):
            raise malformed(file, number, line) from None
        yield row
