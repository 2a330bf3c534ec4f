"""Who is in process_vm_writev(2) in this very moment, on the whole host: by a BPF program that goes over all tasks.

It is attached to nothing and costs nobody anything but its reader: 0.3 to 0.7 µs for each task of the host.
"""

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Final, NamedTuple

from core.errors import KernelLacks
from core.kernel.bpf import (
    ITER_CREATE,
    LINK_CREATE,
    RETURN_ZERO,
    SEQ_WRITE,
    TRACE_ITER,
    TRACING,
    bpf,
    call,
    instruction,
    keep,
    load_program,
)
from core.kernel.btf import read_layout

TASK_PT_REGS: Final = 175  # a helper
FUNCTION: Final = "bpf_iter_task"  # what a program that goes over tasks is attached to
# struct pt_regs of x86-64: what the task called, what it will be answered, the first, second and fourth argument, the
# stack. Whatever enters the kernel from user mode writes them anew; until a call ends its answer is -ENOSYS.
CALLED, ANSWER, FIRST, SECOND, FOURTH, STACK = 120, 80, 112, 104, 56, 152
NOT_YET: Final = -38
PROCESS_VM_WRITEV: Final = (311, 348, 0x40000000 | 540)  # of 64-bit programs, 32-bit ones, x32
READ: Final = (0,)
FOUND: Final = struct.Struct("<2i4Q")
BUFFER_BYTES: Final = 1 << 16


class RemoteWrite(NamedTuple):
    """One call. `target` is a number in the caller's PID namespace; two that differ are not the same call."""

    tid: int
    pid: int
    target: int
    local: int  # addresses of its arrays of addresses, and of its stack
    remote: int
    stack: int


@cache
def _layout() -> tuple[int, int, int]:
    """Offsets of a task's tid and pid, and the number of FUNCTION's type; some 0.15 s. KernelLacks."""
    offsets, functions = read_layout({"task_struct": ("pid", "tgid")}, (FUNCTION,))
    task = offsets["task_struct"]
    return task["pid"], task["tgid"], functions[FUNCTION]


def _code(calls: tuple[int, ...], tid: int, pid: int) -> bytes:
    """Writes a FOUND for every task that is in one of these calls. Register 6: context, 7: task, 8: its pt_regs."""
    at, tell = -FOUND.size, b""
    for place, offset in ((at, tid), (at + 4, pid)):
        tell += instruction(0x61, 1, 7, offset) + instruction(0x63, 10, 1, place)
    for index, offset in enumerate((FIRST, SECOND, FOURTH, STACK)):
        tell += instruction(0x79, 1, 8, offset) + instruction(0x7B, 10, 1, at + 8 + 8 * index)
    tell += instruction(0x79, 1, 6, 0) + instruction(0x79, 1, 1, 0)  # context->meta->seq
    tell += instruction(0xBF, 2, 10) + instruction(0x07, 2, value=at) + instruction(0xB7, 3, value=FOUND.size)
    tell += call(SEQ_WRITE)
    code = instruction(0xBF, 6, 1) + instruction(0x79, 7, 6, 8) + instruction(0x55, 7, 0, 2) + RETURN_ZERO
    code += instruction(0xBF, 1, 7) + call(TASK_PT_REGS) + instruction(0xBF, 8, 0) + instruction(0x79, 1, 8, CALLED)
    for index, number in enumerate(calls):
        code += instruction(0x15, 1, 0, len(calls) - index + 1, number)  # to behind the return
    code += RETURN_ZERO + instruction(0x79, 2, 8, ANSWER) + instruction(0x55, 2, 0, len(tell) // 8, NOT_YET)
    return code + tell + RETURN_ZERO


class RemoteWrites:
    """See open_remote_writes()."""

    def __init__(self, stack: ExitStack, calls: tuple[int, ...] = PROCESS_VM_WRITEV) -> None:
        tid, pid, function = _layout()
        program = load_program(stack, TRACING, _code(calls, tid, pid), attach_kind=TRACE_ITER, attach_to=function)
        self._link = keep(stack, bpf(LINK_CREATE, struct.pack("<4I", program, 0, TRACE_ITER, 0))[0])

    def in_flight(self) -> list[RemoteWrite]:
        """Calls that have begun and not ended. OSError."""
        iterator = bpf(ITER_CREATE, struct.pack("<2I", self._link, 0))[0]
        try:
            found = b"".join(iter(lambda: os.read(iterator, BUFFER_BYTES), b""))
        finally:
            os.close(iterator)
        return [RemoteWrite(*one) for one in FOUND.iter_unpack(found)]


@cache
def _probe() -> None:
    """Whether it sees this very thread read what it tells. KernelLacks, OSError."""
    with ExitStack() as stack:
        seen = RemoteWrites(stack, READ).in_flight()
    if not any((one.tid, one.pid) == (threading.get_native_id(), os.getpid()) for one in seen):
        raise KernelLacks(
            "process_vm_writev", "calls in flight cannot be seen: we run in a PID namespace, or pt_regs differ"
        )


@contextmanager
def open_remote_writes() -> Iterator[RemoteWrites]:
    """For the time of a with block. KernelLacks: nobody tells here."""
    with ExitStack() as stack:
        try:
            _probe()
            writes = RemoteWrites(stack)
        except OSError as error:
            reason = f"calls in flight cannot be seen by bpf(2): {error.strerror}"
            raise KernelLacks("process_vm_writev", reason) from error
        yield writes
