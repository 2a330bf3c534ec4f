"""The kernel's own tmpfs, which all shared memory without a path is on, but for huge pages."""

import os
from functools import cache

from core.proc.maps import parse_maps


@cache
def shmem_device() -> int:
    """Its device number."""
    fd = os.memfd_create("migrate")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def open_mapping(address: int, flags: int) -> int:
    """A descriptor of the file behind a mapping of ours, which the kernel may have merged with others of that file.
    OSError."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        vma = next(vma for vma in parse_maps(file.read()) if vma.start <= address < vma.end)
    return os.open(f"/proc/self/map_files/{vma.start:x}-{vma.end:x}", flags | os.O_CLOEXEC)


def goes_with_last() -> bool:
    """Whether a System V segment of this thread's IPC namespace is removed when the last who has it attached gives it
    back, whoever that is. Source: proc_sys_kernel(5), shm_rmid_forced."""
    with open("/proc/sys/kernel/shm_rmid_forced", encoding="ascii") as file:
        return file.read().strip() != "0"
