"""Reads and writes the memory of another process by /proc/PID/mem, and finds instructions in its code."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from core.errors import NotBorrowable, TraceeError
from core.proc.maps import Vma

SYSCALL_RET: Final = b"\x0f\x05\xc3"
RESTORE_RT: Final = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"  # mov $15, %rax; syscall
CHUNK: Final = 1 << 20
LOWEST: Final = 0x20000  # where an area of ours may begin
TASK_SIZE: Final = 0x7FFFFFFFF000


class RemoteMemory:
    """The memory of process `pid`; writes go through page protections (FOLL_FORCE) into private pages."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes; TraceeError when some are not readable."""
        try:
            content = os.pread(self.fd, size, address)
        except OSError as error:
            raise TraceeError(self.pid, f"memory {address:#x}+{size:#x}: cannot read: {error.strerror}") from error
        if len(content) != size:
            raise TraceeError(self.pid, f"memory {address:#x}+{size:#x}: cannot read all of it")
        return content

    def write(self, address: int, content: bytes) -> None:
        """Put `content` at `address`; TraceeError when it does not fit there."""
        try:
            written = os.pwrite(self.fd, content, address)
        except OSError as error:
            raise TraceeError(self.pid, f"memory {address:#x}: cannot write: {error.strerror}") from error
        if written != len(content):
            raise TraceeError(self.pid, f"memory {address:#x}+{len(content):#x}: cannot write all of it")

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        descriptor, self.fd = self.fd, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def open_memory(pid: int) -> Iterator[RemoteMemory]:
    """RemoteMemory for the time of a with block."""
    memory = RemoteMemory(pid)
    try:
        yield memory
    finally:
        memory.close()


@dataclass(frozen=True, slots=True)
class Gadgets:
    """Addresses in the target's own code: `syscall; ret`, and libc's sigreturn stub."""

    syscall_ret: int
    restorer: int


def find_gadgets(memory: RemoteMemory, vmas: Iterable[Vma]) -> Gadgets:
    """Look through the executable file mappings (others come and go); NotBorrowable when there is no such code."""
    syscall_ret = restorer = 0
    for vma in vmas:
        if not vma.executable or not vma.readable or not vma.path.startswith("/"):
            continue
        for start in range(vma.start, vma.end, CHUNK):
            try:
                content = memory.read(start, min(CHUNK + 16, vma.end - start))
            except TraceeError:  # unmapped meanwhile: it runs
                break
            syscall_ret = syscall_ret or _found(content, SYSCALL_RET, start)
            restorer = restorer or _found(content, RESTORE_RT, start)
            if syscall_ret and restorer:
                return Gadgets(syscall_ret, restorer)
    raise NotBorrowable(
        memory.pid, "its code has no `syscall; ret` with a sigreturn stub, so it cannot be borrowed safely"
    )


def _found(content: bytes, pattern: bytes, start: int) -> int:
    position = content.find(pattern)
    return start + position if position >= 0 else 0


def find_hole(vmas: Iterable[Vma], size: int, lowest: int = 0x200000) -> int:
    """Lowest page-aligned address from `lowest` where `size` bytes with a page's gap on both sides are unmapped."""
    candidate = lowest
    for vma in sorted(vmas, key=lambda vma: vma.start):
        if vma.start >= candidate + size + 0x1000:
            break
        candidate = max(candidate, vma.end + 0x1000)
    return candidate


def find_quiet_hole(vmas: Iterable[Vma], size: int) -> int:
    """The same where no heap and no stack grows to: below all of `vmas`, or in the middle of the widest gap."""
    ordered = sorted((vma for vma in vmas if vma.start < TASK_SIZE), key=lambda vma: vma.start)
    hole = find_hole(ordered, size, LOWEST)
    if not ordered or hole < ordered[0].start:
        return hole
    widest, end = size + 2 * 0x1000, ordered[0].end
    for vma in ordered:
        if vma.start - end >= widest:
            widest, hole = vma.start - end, (vma.start + end - size) // 2 & -0x1000
        end = max(end, vma.end)
    return hole
