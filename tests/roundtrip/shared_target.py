"""Does to its shared memory what each line of stdin names, and answers "done"; then it waits for the next.

An anonymous piece, a file of a tmpfs, a memfd that stays open, one that does not, a System V segment, PAGES pages each;
and anonymous huge pages.
"""

import ctypes
import mmap
import os
import sys
from pathlib import Path

PAGE, PAGES = 4096, 64
HUGE = 2 << 20
MAP_HUGETLB = 0x40000
SIZE = PAGE * PAGES
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = LIBC.mmap.restype = LIBC.mremap.restype = ctypes.c_void_p


def name_of(pid: int) -> Path:
    """Of the file of process `pid`."""
    return Path(f"/dev/shm/migrate-shared-target-{pid}")


def attach() -> int:
    """The System V segment, once more."""
    address = LIBC.shmat(segment, None, 0)
    assert address not in (None, 2**64 - 1)
    return int(address)


def memfd() -> int:
    fd = os.memfd_create("shared-target")
    os.ftruncate(fd, SIZE)
    return fd


def mapped(fd: int) -> int:
    """Its address; mmap.mmap would keep it open."""
    return int(LIBC.mmap(None, ctypes.c_size_t(SIZE), 3, mmap.MAP_SHARED, fd, ctypes.c_size_t(0)))


def store() -> None:
    anonymous[3 * PAGE] = 3
    ctypes.memset(closed + 4 * PAGE, 4, 1)


def store_and_drop() -> None:
    anonymous[5 * PAGE] = 5
    anonymous.madvise(mmap.MADV_DONTNEED)


def store_by_kernel() -> None:
    with open("/dev/zero", "rb", buffering=0) as zero:
        zero.readinto(memoryview(anonymous)[6 * PAGE : 7 * PAGE])


def remove_and_read() -> None:
    anonymous.madvise(mmap.MADV_REMOVE, 8 * PAGE, PAGE)
    assert anonymous[8 * PAGE] == 0


def remove() -> None:
    anonymous.madvise(mmap.MADV_REMOVE, 9 * PAGE, PAGE)


def store_again() -> None:
    anonymous[9 * PAGE] = 9


def fork_and_store() -> None:
    child = os.fork()
    if not child:
        ctypes.memset(closed + 10 * PAGE, 10, 1)
        os._exit(0)
    os.waitpid(child, 0)


def map_store_and_go() -> None:
    address = attach()
    ctypes.string_at(address + 11 * PAGE, 1)
    ctypes.memset(address + 11 * PAGE, 11, 1)
    LIBC.shmdt(ctypes.c_void_p(address))


def map_and_stay() -> None:
    kept.append(attach())


def store_and_go() -> None:
    address = kept.pop()
    ctypes.memset(address + 12 * PAGE, 12, 1)
    LIBC.shmdt(ctypes.c_void_p(address))


def move_and_store() -> None:
    moved = LIBC.mremap(ctypes.c_void_p(system_v), ctypes.c_size_t(SIZE), ctypes.c_size_t(SIZE), 3,
                        ctypes.c_void_p(room))  # fmt: skip
    assert moved == room, ctypes.get_errno()
    ctypes.memset(room + 13 * PAGE, 13, 1)


def write_as_file() -> None:
    os.pwrite(opened_fd, b"fourteen", 14 * PAGE)


def write_and_close() -> None:
    os.pwrite(opened_fd, b"fifteen", 15 * PAGE)
    os.close(opened_fd)


def store_in_file() -> None:
    ctypes.memset(named + 16 * PAGE, 16, 1)


def write_by_name() -> None:
    with name_of(os.getpid()).open("r+b", buffering=0) as file:
        file.seek(17 * PAGE)
        file.write(b"seventeen")


def store_to_huge() -> None:
    huge[PAGE] = 18


def store_to_huge_and_drop() -> None:
    huge[HUGE + PAGE] = 19
    huge.madvise(mmap.MADV_DONTNEED, HUGE, HUGE)


def remove_huge_and_read() -> None:
    huge.madvise(mmap.MADV_REMOVE, 2 * HUGE, HUGE)
    assert huge[2 * HUGE] == 0


def remove_huge() -> None:
    huge.madvise(mmap.MADV_REMOVE, 3 * HUGE, HUGE)


def rest() -> None:
    """Nothing."""


if __name__ == "__main__":
    kept: list[int] = []
    anonymous = mmap.mmap(-1, SIZE)
    huge = mmap.mmap(-1, 5 * HUGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    for start in range(0, 4 * HUGE, HUGE):
        huge[start] = 255
    opened_fd, closed_fd = memfd(), memfd()
    opened, closed = mapped(opened_fd), mapped(closed_fd)
    os.close(closed_fd)
    os.write(opened_fd, bytes([255]) * (SIZE // 2))
    segment = LIBC.shmget(0, SIZE, 0o1600)
    system_v = attach()
    LIBC.shmctl(segment, 0, None)
    reserved = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room = ctypes.addressof(ctypes.c_char.from_buffer(reserved))
    for page in range(PAGES // 2):
        anonymous[page * PAGE] = 255
        for start in (closed, system_v):
            ctypes.memset(start + page * PAGE, 255, 1)
    with name_of(os.getpid()).open("x+b", buffering=0) as file:
        file.write(bytes([255]) * SIZE)
        named = mapped(file.fileno())
    print("done", flush=True)
    answers = os.dup(1)  # the pipes of a test are no matter of the copy
    for line in sys.stdin:
        globals()[line.strip()]()
        os.write(answers, b"done\n")
