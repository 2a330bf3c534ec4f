"""/proc/sysvipc: System V shared memory, message queues and semaphores of our IPC namespace."""

from typing import NamedTuple

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


def parse_message_queues(text: str, file: str = "sysvipc/msg") -> dict[int, tuple[int, ...]]:
    """Id → PIDs of the last sender and receiver, without zeros."""
    rows = _columns(text, file, (1, 5, 6))
    return {id: tuple(pid for pid in pids if pid) for id, *pids in rows}


def parse_semaphore_sets(text: str, file: str = "sysvipc/sem") -> dict[int, int]:
    """Id → number of semaphores."""
    return dict((id, count) for id, count in _columns(text, file, (1, 3)))


def _columns(text: str, file: str, wanted: tuple[int, ...]) -> list[tuple[int, ...]]:
    found = []
    for number, line in enumerate(text.split("\n")[1:], 2):
        if not line:
            continue
        words = line.split()
        try:
            found.append(tuple(int(words[index]) for index in wanted))
        except (ValueError, IndexError):
            raise malformed(file, number, line) from None
    return found
