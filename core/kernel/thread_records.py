"""What the kernel has of every thread of a process: who is alike in all that threads are asked, without asking them.

By a BPF program that goes over them, in 1 µs each; it is attached to nothing and changes nothing. What the kernel has
is compared, not understood: threads of which it is the same to the byte, so the same objects too, answer the same. It
takes Linux 6.1, with BTF. Source: struct task_struct in linux/sched.h.
"""

import os
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Final

from core.errors import KernelLacks
from core.kernel.bpf import (
    ARRAY,
    PROBE_READ_KERNEL,
    RETURN_ZERO,
    call,
    copy_bytes,
    copy_number,
    instruction,
    keep,
    link_iterator,
    load_iterator,
    load_map,
    make_map,
    opened,
    read_iterator,
    return_if_zero,
    unless_zero,
    write_out,
)
from core.kernel.btf import read_layout
from core.kernel.kernel_memory import possible_cpus
from core.kernel.thread_cores import Places
from core.native._kernel import ffi

FUNCTION: Final = "bpf_iter_task"  # what a program that goes over tasks is attached to
UPID_SIZE_BITS: Final = 4  # struct upid is 16 bytes: a number and its namespace
ONE_LEVEL: Final = 1 << UPID_SIZE_BITS
ROOM: Final = 4096  # for a record
AUTODISARM: Final = -(1 << 31)
DISABLED: Final = 2  # of an alternate stack: sigaltstack(2)
# All that a thread is asked comes of these, as sizes in bytes: what it is asked by itself (core.collect_threads),
# /proc/PID/task/TID/status, and the facts of core.kernel.thread_facts. A pointer stands for what it leads to.
SPECIAL: Final = ("pending", "mempolicy", "io_bitmap")
SCHEDULED: Final = ("policy", "static_prio", "rt_priority")
COMMON: Final = (
    ("cred", 8), ("real_cred", 8), ("files", 8), ("fs", 8), ("timer_slack_ns", 8), ("atomic_flags", 8), ("flags", 8),
    ("iopl_emul", 8), ("pdeath_signal", 4), ("mode", 4), ("filter", 8), ("slice", 8),
)  # fmt: skip
LAYOUT: Final = {
    "task_struct": (
        "thread_pid", "clear_child_tid", "sas_ss_sp", "sas_ss_size", "sas_ss_flags", "comm", "pending", "seccomp",
        "mempolicy", "policy", "static_prio", "rt_priority", "sched_reset_on_fork", "cred", "real_cred", "files", "fs",
        "timer_slack_ns", "atomic_flags", "pdeath_signal", "thread", "thread_info", "io_context", "cpus_mask", "se",
    ),
    "thread_struct": ("io_bitmap", "iopl_emul"), "thread_info": ("flags",), "sigpending": ("signal",),
    "seccomp": ("mode", "filter"), "io_context": ("ioprio",), "pid": ("level", "numbers"), "upid": ("nr",),
}  # fmt: skip
OPTIONAL: Final = {"sched_entity": ("slice",)}  # since Linux 6.6


def _place(field: str) -> int:
    return int(ffi.offsetof("struct mg_record", field))


SIZE: Final = int(ffi.sizeof("struct mg_record"))
TABLES: Final = SIZE + 8 * [name for name, _ in COMMON].index("files")  # and fs behind it
PLACES: Final = Places(_place("clear_child_tid"), _place("stack"))


@cache
def _layout() -> tuple[dict[str, dict[str, int]], int]:
    """Offsets, and the number of FUNCTION's type; some 0.15 s. KernelLacks."""
    offsets, functions = read_layout(LAYOUT, (FUNCTION,), OPTIONAL)
    return offsets, functions[FUNCTION]


def _copy(place: int, size: int, base: int, offset: int) -> bytes:
    """`size` bytes from register `base` + `offset` to `place` of the record, which register 8 leads to."""
    return copy_bytes(8, place, size, base, offset)


def _load(place: int, size: int, base: int, offset: int) -> bytes:
    """The same of a number."""
    return copy_number(8, place, size, base, offset)


def _own_numbers(level: int, pid: dict[str, int], nr: int) -> bytes:
    """What the thread at register 9, a struct pid, is called on our level and on its own."""
    numbers = pid["numbers"] + nr
    code = _copy(_place("tid"), 4, 9, numbers + ONE_LEVEL * level) + _load(_place("level"), 4, 9, pid["level"])
    code += instruction(0x61, 3, 8, _place("level")) + instruction(0x67, 3, value=UPID_SIZE_BITS)
    code += instruction(0x0F, 3, 9) + instruction(0x07, 3, value=numbers)
    code += instruction(0xBF, 1, 8) + instruction(0x07, 1, value=_place("own_tid")) + instruction(0xB7, 2, value=4)
    return code + call(PROBE_READ_KERNEL)


def _stack(task: dict[str, int]) -> bytes:
    """The alternate stack as sigaltstack(2) tells of one that is not in use."""
    flags = _place("stack_flags")
    code = _load(_place("stack"), 8, 7, task["sas_ss_sp"]) + _load(_place("stack_size"), 8, 7, task["sas_ss_size"])
    code += instruction(0x61, 1, 7, task["sas_ss_flags"]) + instruction(0x54, 1, value=AUTODISARM)
    code += instruction(0x79, 2, 8, _place("stack_size")) + instruction(0x55, 2, 0, 1)
    return code + instruction(0x44, 1, value=DISABLED) + instruction(0x63, 8, 1, flags)


def _code(out: int, level: int, affinity_size: int) -> bytes:
    """Writes the record of every task. Register 6: context, 7: task, 8: the record, 9: what a pointer leads to."""
    layout, _ = _layout()
    task, thread = layout["task_struct"], layout["thread_struct"]
    at = {
        **task, "pending": task["pending"] + layout["sigpending"]["signal"],
        "flags": task["thread_info"] + layout["thread_info"]["flags"],
        **{name: task["thread"] + offset for name, offset in thread.items()},
        **{name: task["seccomp"] + offset for name, offset in layout["seccomp"].items()},
        **{name: task["se"] + offset for name, offset in layout["sched_entity"].items()},
    }  # fmt: skip
    code = instruction(0x7A, 8, 0, _place("tid"))  # of one that has ended just now there are none, not those before it
    code += instruction(0x79, 9, 7, task["thread_pid"])
    code += unless_zero(9, _own_numbers(level, layout["pid"], layout["upid"]["nr"]))
    code += _load(_place("clear_child_tid"), 8, 7, at["clear_child_tid"]) + _copy(_place("comm"), 16, 7, at["comm"])
    code += _stack(task)
    for index, name in enumerate(SPECIAL):
        code += _load(_place("special") + 8 * index, 8, 7, at[name])
    for index, name in enumerate(SCHEDULED):
        code += _load(_place("policy") + 4 * index, 4, 7, at[name])
    code += _copy(_place("policy") + 4 * len(SCHEDULED), 1, 7, at["sched_reset_on_fork"])  # with bits beside it
    end = SIZE
    for name, size in COMMON:
        code += _load(end, size, 7, at[name]) if name in at else instruction(0x7A, 8, 0, end)
        end += 8
    priority = instruction(0x69, 1, 9, layout["io_context"]["ioprio"]) + instruction(0x04, 1, value=1)
    code += instruction(0x7A, 8, 0, end) + instruction(0x79, 9, 7, task["io_context"])
    code += unless_zero(9, priority + instruction(0x63, 8, 1, end))
    for place in range(0, affinity_size, 8):
        code += _load(end + 8 + place, 8, 7, task["cpus_mask"] + place)
    code += write_out(6, 8, record_size(affinity_size))
    start = instruction(0xBF, 6, 1) + instruction(0x79, 7, 6, 8) + return_if_zero(7)
    return start + load_map(8, out, value=True) + code + RETURN_ZERO


def record_size(affinity_size: int) -> int:
    """Bytes of a record, `affinity_size` of them for the processors that a thread may run on."""
    return SIZE + 8 * len(COMMON) + 8 + affinity_size


@dataclass(frozen=True, slots=True)
class Records:
    """struct mg_record of threads, one behind the other, each `size` long, which is longer than the struct."""

    content: bytes
    size: int

    def of(self, index: int) -> bytes:
        """That of one thread."""
        return self.content[index * self.size : (index + 1) * self.size]

    @property
    def own_tids(self) -> dict[int, int]:
        """What each one calls itself, by tid as we see it."""
        return dict(struct.iter_unpack(f"<2i{self.size - 8}x", self.content))

    @property
    def share_tables(self) -> bool:
        """They have one descriptor table, one working directory and one umask."""
        starts = range(TABLES, len(self.content), self.size)
        return len({self.content[start : start + 16] for start in starts}) == 1


class ThreadRecords:
    """See open_thread_records()."""

    def __init__(self, stack: ExitStack, pid: int, level: int) -> None:
        affinity_size = -(-possible_cpus() // 64) * 8
        self.size = record_size(affinity_size)
        if self.size > ROOM:
            raise KernelLacks("records of threads", "there are too many processors")
        code = _code(make_map(stack, ARRAY, ROOM), level, affinity_size)
        self._link = keep(stack, link_iterator(load_iterator(stack, code, _layout()[1]), pid=pid))

    def read(self, tids: Sequence[int]) -> "Records":
        """Those of these threads. LookupError: one of them is not there. OSError."""
        content = self.read_all()
        numbers = [tid for (tid,) in struct.iter_unpack(f"<i{self.size - 4}x", content)]
        if numbers[: len(tids)] != list(tids):
            places = {tid: place * self.size for place, tid in enumerate(numbers)}
            content = b"".join([content[places[tid] : places[tid] + self.size] for tid in tids])
        return Records(content[: len(tids) * self.size], self.size)

    def read_all(self) -> bytes:
        """Those of all threads, in the kernel's order. OSError."""
        return read_iterator(self._link)


@cache
def _our_level() -> int:
    """How many PID namespaces are above ours. KernelLacks, OSError."""
    with ExitStack() as stack:
        records = ThreadRecords(stack, os.getpid(), 0)
        content = records.read_all()
    one = ffi.from_buffer("struct mg_record *", content)
    if len(content) < records.size or one.own_tid != os.getpid():
        raise KernelLacks("records of threads", "they do not tell of us what we know")
    return int(one.level)


def open_thread_records(pid: int) -> AbstractContextManager[ThreadRecords]:
    """Those of process `pid`, for the time of a with block. KernelLacks: nobody tells here."""
    return opened("records of threads", lambda stack: ThreadRecords(stack, pid, _our_level()))
