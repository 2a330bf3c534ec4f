"""Programs for bpf(2): how instructions are encoded, and the commands. Knows no program.

Source: linux/bpf.h, Documentation/bpf/standardization/instruction-set.rst.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, TypeVar

from core.errors import KernelLacks
from core.kernel.calls import address_of, syscall

T = TypeVar("T")

MAP_CREATE, PROG_LOAD, PROG_TEST_RUN, LINK_CREATE, ITER_CREATE = 0, 5, 10, 28, 33  # commands
ARRAY: Final = 2  # a kind of map
TRACING, TRACE_ITER = 26, 28  # kinds of program, of attachment
PROBE_READ_KERNEL, SEQ_WRITE, SOCK_FROM_FILE = 113, 127, 162  # helpers
TASK_FILES: Final = "bpf_iter_task_file"  # what a program that goes over open files is attached to
LICENSE: Final = b"Dual MIT/GPL\0"  # of our programs: the helpers that they need are for such alone
ATTRIBUTES_SIZE: Final = 128
BUFFER_BYTES: Final = 1 << 16


def instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One of 8 bytes; `target` and `source` are registers."""
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def load_map(register: int, descriptor: int, *, value: bool) -> bytes:
    """Of a map, or of its only value."""
    return instruction(0x18, register, 2 if value else 1, 0, descriptor) + instruction(0)


def call(helper: int) -> bytes:
    """Arguments in registers 1 to 5, the answer in 0."""
    return instruction(0x85, value=helper)


RETURN: Final = instruction(0x95)
RETURN_ZERO: Final = instruction(0xB7) + RETURN


def unless_zero(register: int, code: bytes) -> bytes:
    """`code`, left out where the register is 0."""
    return instruction(0x15, register, 0, len(code) // 8) + code


def where_equal(register: int, number: int, code: bytes) -> bytes:
    """`code`, left out where the register is another number."""
    return instruction(0x55, register, 0, len(code) // 8, number) + code


def return_if_zero(register: int) -> bytes:
    """The program ends there."""
    return instruction(0x55, register, 0, len(RETURN_ZERO) // 8) + RETURN_ZERO


def copy_bytes(target: int, place: int, size: int, base: int, offset: int) -> bytes:
    """`size` bytes of the kernel's memory, from register `base` + `offset` to register `target` + `place`."""
    code = instruction(0xBF, 1, target) + instruction(0x07, 1, value=place) + instruction(0xB7, 2, value=size)
    return code + instruction(0xBF, 3, base) + instruction(0x07, 3, value=offset) + call(PROBE_READ_KERNEL)


def copy_number(target: int, place: int, size: int, base: int, offset: int) -> bytes:
    """The same of a number of 1, 2, 4 or 8 bytes, by instructions, which is cheaper, where the kernel knows what the
    registers lead to."""
    load, store = {1: (0x71, 0x73), 2: (0x69, 0x6B), 4: (0x61, 0x63), 8: (0x79, 0x7B)}[size]
    return instruction(load, 1, base, offset) + instruction(store, target, 1, place)


def write_out(context: int, content: int, size: int) -> bytes:
    """Of an iterator's program: `size` bytes, from register `content` on, for who reads it."""
    code = instruction(0x79, 1, context, 0) + instruction(0x79, 1, 1, 0)  # context->meta->seq
    return code + instruction(0xBF, 2, content) + instruction(0xB7, 3, value=size) + call(SEQ_WRITE)


def bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """What it answers, and what it wrote back."""
    buffer = bytearray(attributes.ljust(ATTRIBUTES_SIZE, b"\0"))
    return syscall("bpf", command, address_of(buffer), len(buffer)), bytes(buffer)


def make_map(stack: ExitStack, kind: int, size: int, flags: int = 0) -> int:
    """Of one value of `size` bytes; a descriptor until the stack unwinds. OSError."""
    return keep(stack, bpf(MAP_CREATE, struct.pack("<5I", kind, 4, size, 1, flags))[0])


def load_program(stack: ExitStack, kind: int, code: bytes, *, attach_kind: int = 0, attach_to: int = 0) -> int:
    """A descriptor until the stack unwinds. `attach_to`: a type's number in the kernel's BTF. OSError."""
    start = struct.pack("<2I2Q", kind, len(code) // 8, address_of(code), address_of(LICENSE))
    attributes = bytearray(start.ljust(ATTRIBUTES_SIZE, b"\0"))
    struct.pack_into("<I", attributes, 68, attach_kind)  # expected_attach_type
    struct.pack_into("<I", attributes, 108, attach_to)  # attach_btf_id
    return keep(stack, bpf(PROG_LOAD, bytes(attributes))[0])


def load_iterator(stack: ExitStack, code: bytes, of: int) -> int:
    """A program that goes over things; `of`: the number of its function's type."""
    return load_program(stack, TRACING, code, attach_kind=TRACE_ITER, attach_to=of)


def link_iterator(program: int, *, tid: int = 0, pid: int = 0) -> int:
    """A descriptor that read_iterator() takes, for one thread or for all of a process. OSError."""
    of_task = struct.pack("<4I", tid, pid, 0, 0)  # union bpf_iter_link_info
    return bpf(LINK_CREATE, struct.pack("<4IQI", program, 0, TRACE_ITER, 0, address_of(of_task), len(of_task)))[0]


def read_iterator(link: int) -> bytes:
    """All that its program writes. OSError."""
    iterator = bpf(ITER_CREATE, struct.pack("<2I", link, 0))[0]
    try:
        return b"".join(iter(lambda: os.read(iterator, BUFFER_BYTES), b""))
    finally:
        os.close(iterator)


@contextmanager
def opened(what: str, make: Callable[[ExitStack], T]) -> Iterator[T]:
    """What `make` makes, for the time of a with block. KernelLacks: bpf(2) does not let us."""
    with ExitStack() as stack:
        try:
            made = make(stack)
        except OSError as error:
            raise KernelLacks(what, f"cannot be read by bpf(2): {error.strerror}") from error
        yield made


def keep(stack: ExitStack, descriptor: int) -> int:
    """Closed when the stack unwinds."""
    stack.callback(os.close, descriptor)
    return descriptor
