"""Reads the kernel's own memory, for what it tells nobody otherwise: by BPF, which lets its reader fault. Never writes.

A program is not attached to anything: bpf(2) runs it once per read (BPF_PROG_TEST_RUN), in our own context.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Final

from core.errors import KernelLacks
from core.kernel.btf import read_offsets
from core.kernel.calls import address_of, syscall

MAP_CREATE, PROG_LOAD, PROG_TEST_RUN = 0, 5, 10  # commands of bpf(2)
ARRAY, PERCPU_ARRAY = 2, 6
MMAPABLE: Final = 1 << 10
RAW_TRACEPOINT: Final = 17
GET_CURRENT_TASK, PROBE_READ_KERNEL, LOOKUP_PERCPU = 35, 113, 195  # helpers
LICENSE: Final = b"Dual MIT/GPL\0"  # of the programs below: the helpers are for such alone
PAGE: Final = mmap.PAGESIZE
WORD: Final = struct.Struct("<Q")
LIMIT: Final = 1 << 64
POSSIBLE: Final = "/sys/devices/system/cpu/possible"
LAYOUT: Final = {
    "task_struct": ("files",), "files_struct": ("fdt",), "fdtable": ("fd",), "file": ("private_data",),
    "bpf_array": ("pptrs",),
}  # fmt: skip


@cache
def offsets_of(*wanted: tuple[str, tuple[str, ...]]) -> dict[str, dict[str, int]]:
    """Offsets of these fields and of those that are needed here. KernelLacks: it does not tell."""
    fields = dict(wanted)
    return read_offsets({name: (*LAYOUT.get(name, ()), *fields.get(name, ())) for name in {**LAYOUT, **fields}})


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def _load_map(register: int, descriptor: int, *, value: bool) -> bytes:
    """Of a map, or of its only value."""
    return _instruction(0x18, register, 2 if value else 1, 0, descriptor) + _instruction(0)


def _call(helper: int) -> bytes:
    return _instruction(0x85, value=helper)


RETURN: Final = _instruction(0x95)
RETURN_ZERO: Final = _instruction(0xB7) + RETURN
KEEP_CONTEXT: Final = _instruction(0xBF, 6, 1)


def _read_code(out: int) -> bytes:
    """probe_read_kernel(out, size = context[1], address = context[0])."""
    code = KEEP_CONTEXT + _load_map(1, out, value=True) + _instruction(0x79, 2, 6, 8) + _instruction(0x79, 3, 6, 0)
    return code + _instruction(0x25, 2, 0, 2, PAGE) + _call(PROBE_READ_KERNEL) + RETURN + RETURN_ZERO


def _task_code(out: int) -> bytes:
    code = _load_map(7, out, value=True) + _call(GET_CURRENT_TASK)
    return code + _instruction(0x7B, 7, 0, 0) + RETURN_ZERO


def _place_code(out: int, per_cpu: int) -> bytes:
    """The address of the map `per_cpu`, and that of its value on CPU context[0]."""
    code = KEEP_CONTEXT + _load_map(7, out, value=True) + _load_map(1, per_cpu, value=False)
    code += _instruction(0x7B, 7, 1, 0) + _instruction(0x62, 10, 0, -4, 0)
    code += _instruction(0xBF, 2, 10) + _instruction(0x07, 2, value=-4) + _instruction(0x79, 3, 6, 0)
    return code + _call(LOOKUP_PERCPU) + _instruction(0x7B, 7, 0, 8) + RETURN_ZERO


class KernelMemory:
    """The reader; see open_kernel_memory(). `offsets`: struct → field → offset."""

    def __init__(self, stack: ExitStack, offsets: dict[str, dict[str, int]]) -> None:
        self._stack, self.offsets = stack, offsets
        out = self._make_map(ARRAY, PAGE, MMAPABLE)
        self._per_cpu = self._make_map(PERCPU_ARRAY, 8)
        self._out = stack.enter_context(mmap.mmap(out, PAGE))
        self._reader, self._placer = self._load(_read_code(out)), self._load(_place_code(out, self._per_cpu))
        self._run(self._load(_task_code(out)))
        self._task = self._answer(0)
        self._cpus = self._cpu_offsets()

    def _bpf(self, command: int, attributes: bytes) -> tuple[int, bytes]:
        buffer = bytearray(attributes.ljust(128, b"\0"))
        return syscall("bpf", command, address_of(buffer), len(buffer)), bytes(buffer)

    def _keep(self, descriptor: int) -> int:
        self._stack.callback(os.close, descriptor)
        return descriptor

    def _make_map(self, kind: int, size: int, flags: int = 0) -> int:
        return self._keep(self._bpf(MAP_CREATE, struct.pack("<5I", kind, 4, size, 1, flags))[0])

    def _load(self, code: bytes) -> int:
        program = struct.pack("<2I2Q", RAW_TRACEPOINT, len(code) // 8, address_of(code), address_of(LICENSE))
        return self._keep(self._bpf(PROG_LOAD, program)[0])

    def _run(self, program: int, first: int = 0, second: int = 0) -> None:
        context = struct.pack("<2Q", first, second)
        run = struct.pack("<4I2Q4I2Q", program, 0, 0, 0, 0, 0, 0, 0, len(context), 0, address_of(context), 0)
        result = struct.unpack_from("<i", self._bpf(PROG_TEST_RUN, run)[1], 4)[0]
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def _answer(self, index: int) -> int:
        return int(WORD.unpack_from(self._out, index * WORD.size)[0])

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes, at most a page; OSError when nothing is there."""
        self._run(self._reader, address % LIMIT, size)
        return self._out[:size]

    def word(self, address: int) -> int:
        """64 bits."""
        return int(WORD.unpack(self.read(address, WORD.size))[0])

    def field(self, address: int, struct_name: str, field: str) -> int:
        """64 bits of a struct."""
        return self.word(address + self.offsets[struct_name][field])

    def _cpu_offsets(self) -> list[int]:
        """What is to be added to a per-CPU address for each CPU there may ever be."""
        found = []
        for cpu in range(_possible_cpus()):
            self._run(self._placer, cpu)
            map, value = self._answer(0), self._answer(1)
            found.append((value - self.field(map, "bpf_array", "pptrs")) % LIMIT)
        return found

    def sum_per_cpu(self, address: int) -> int:
        """A per-CPU counter of 64 bits, over all of them."""
        return sum(self.word(address + offset) for offset in self._cpus) % LIMIT

    def file(self, descriptor: int) -> int:
        """The struct file of an open file of ours, which holds it there."""
        files = self.field(self._task, "task_struct", "files")
        table = self.field(self.field(files, "files_struct", "fdt"), "fdtable", "fd")
        return self.word(table + WORD.size * descriptor)

    def private_data(self, descriptor: int) -> int:
        """What the kernel keeps for it."""
        return self.field(self.file(descriptor), "file", "private_data")


def _possible_cpus() -> int:
    with open(POSSIBLE, encoding="ascii") as file:
        return int(file.read().replace(",", "-").split("-")[-1]) + 1


@contextmanager
def open_kernel_memory(*wanted: tuple[str, tuple[str, ...]]) -> Iterator[KernelMemory]:
    """For the time of a with block; `wanted`: (struct, fields). KernelLacks: it cannot be read here."""
    offsets = offsets_of(*wanted)
    with ExitStack() as stack:
        try:
            memory = KernelMemory(stack, offsets)
        except OSError as error:
            raise KernelLacks("kernel memory", f"cannot be read by bpf(2): {error.strerror}") from error
        yield memory
