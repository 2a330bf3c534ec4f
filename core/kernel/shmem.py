"""The kernel's own tmpfs, which all shared memory without a path is on, but for huge pages."""

import os
from functools import cache


@cache
def shmem_device() -> int:
    """Its device number."""
    fd = os.memfd_create("migrate")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)
