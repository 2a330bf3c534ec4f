"""Reads the kernel's own memory, for what it tells nobody otherwise: by BPF, which lets its reader fault. Never writes.

A program is not attached to anything: bpf(2) runs it once per read (BPF_PROG_TEST_RUN), in our own context.
"""

import mmap
import os
import struct
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Final

from core.kernel.bpf import (
    ARRAY,
    PROBE_READ_KERNEL,
    PROG_TEST_RUN,
    RETURN,
    RETURN_ZERO,
    bpf,
    call,
    instruction,
    load_map,
    load_program,
    make_map,
    opened,
)
from core.kernel.btf import read_offsets
from core.kernel.calls import address_of

PERCPU_ARRAY: Final = 6
MMAPABLE: Final = 1 << 10
RAW_TRACEPOINT: Final = 17
GET_CURRENT_TASK, LOOKUP_PERCPU = 35, 195  # helpers
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


KEEP_CONTEXT: Final = instruction(0xBF, 6, 1)


def _read_code(out: int) -> bytes:
    """probe_read_kernel(out, size = context[1], address = context[0])."""
    code = KEEP_CONTEXT + load_map(1, out, value=True) + instruction(0x79, 2, 6, 8) + instruction(0x79, 3, 6, 0)
    return code + instruction(0x25, 2, 0, 2, PAGE) + call(PROBE_READ_KERNEL) + RETURN + RETURN_ZERO


def _task_code(out: int) -> bytes:
    code = load_map(7, out, value=True) + call(GET_CURRENT_TASK)
    return code + instruction(0x7B, 7, 0, 0) + RETURN_ZERO


def _place_code(out: int, per_cpu: int) -> bytes:
    """The address of the map `per_cpu`, and that of its value on CPU context[0]."""
    code = KEEP_CONTEXT + load_map(7, out, value=True) + load_map(1, per_cpu, value=False)
    code += instruction(0x7B, 7, 1, 0) + instruction(0x62, 10, 0, -4, 0)
    code += instruction(0xBF, 2, 10) + instruction(0x07, 2, value=-4) + instruction(0x79, 3, 6, 0)
    return code + call(LOOKUP_PERCPU) + instruction(0x7B, 7, 0, 8) + RETURN_ZERO


class KernelMemory:
    """The reader; see open_kernel_memory(). `offsets`: struct → field → offset."""

    def __init__(self, stack: ExitStack, offsets: dict[str, dict[str, int]]) -> None:
        self._stack, self.offsets = stack, offsets
        out = make_map(stack, ARRAY, PAGE, MMAPABLE)
        self._per_cpu = make_map(stack, PERCPU_ARRAY, 8)
        self._out = stack.enter_context(mmap.mmap(out, PAGE))
        self._reader, self._placer = self._load(_read_code(out)), self._load(_place_code(out, self._per_cpu))
        self._run(self._load(_task_code(out)))
        self._task = self._answer(0)
        self._cpus = self._cpu_offsets()

    def _load(self, code: bytes) -> int:
        return load_program(self._stack, RAW_TRACEPOINT, code)

    def _run(self, program: int, first: int = 0, second: int = 0) -> None:
        context = struct.pack("<2Q", first, second)
        run = struct.pack("<4I2Q4I2Q", program, 0, 0, 0, 0, 0, 0, 0, len(context), 0, address_of(context), 0)
        result = struct.unpack_from("<i", bpf(PROG_TEST_RUN, run)[1], 4)[0]
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
        for cpu in range(possible_cpus()):
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


def possible_cpus() -> int:
    """How many processors there may ever be."""
    with open(POSSIBLE, encoding="ascii") as file:
        return int(file.read().replace(",", "-").split("-")[-1]) + 1


def open_kernel_memory(*wanted: tuple[str, tuple[str, ...]]) -> AbstractContextManager[KernelMemory]:
    """For the time of a with block; `wanted`: (struct, fields). KernelLacks: it cannot be read here."""
    return opened("kernel memory", lambda stack: KernelMemory(stack, offsets_of(*wanted)))
