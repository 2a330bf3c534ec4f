"""What the kernel has of the descriptors of a process, as far as it decides what fdinfo and fstat(2) tell of them.

By a BPF program that goes over its open files, in some 0.5 µs each; it is attached to nothing and changes nothing.
Fields are understood here, by name; that they mean what is thought is tried with files of ours before anything is
believed (core.kernel.file_trials). It takes Linux 6.1, with BTF.
Source: struct file, inode, mount, fdtable, eventfd_ctx, timerfd_ctx, pipe_inode_info, shmem_inode_info, unix_sock.
"""

import stat
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Any, Final

from core.errors import KernelLacks
from core.kernel.bpf import (
    ARRAY,
    RETURN_ZERO,
    TASK_FILES,
    copy_bytes,
    copy_number,
    instruction,
    link_iterator,
    load_iterator,
    load_map,
    make_map,
    opened,
    read_iterator,
    return_if_zero,
    where_equal,
    write_out,
)
from core.kernel.btf import read_layout
from core.native._kernel import ffi, lib

SIZE: Final = int(ffi.sizeof("struct mg_file_facts"))
PLACES: Final = dict(ffi.typeof("struct mg_file_facts").fields)
ROOM: Final = 4096
NEEDED: Final = {
    "file": ("f_inode", "f_op", "private_data", "f_flags", "f_pos", "f_path", "f_owner"), "path": ("mnt",),
    "mount": ("mnt", "mnt_id"), "super_block": ("s_dev", "s_magic"), "fown_struct": ("pid",),
    "inode": ("i_mode", "i_uid", "i_gid", "i_nlink", "i_size", "i_ino", "i_sb", "i_flctx", "i_pipe"),
    "task_struct": ("files",), "files_struct": ("fdt",), "fdtable": ("close_on_exec",), "timerqueue_node": ("expires",),
    "timerfd_ctx": ("tintv", "ticks", "clockid", "expired", "settime_flags"), "eventfd_ctx": ("count", "id"),
    "pipe_inode_info": ("head", "tail", "max_usage", "readers", "writers"), "socket": ("sk",),
    "shmem_inode_info": ("seals", "vfs_inode"), "unix_sock": ("scm_stat",), "scm_stat": ("nr_fds",),
}  # fmt: skip
OPTIONAL: Final = {"fown_struct": ("file",)}  # since Linux 6.12, when struct file began to have a pointer to it
FILE, INODE, OTHER = 512, 1024, 2048  # where they are copied to, behind the record


@cache
def _layout() -> tuple[dict[str, dict[str, int]], int]:
    """Offsets, and the number of the function's type; some 0.15 s. KernelLacks."""
    offsets, functions = read_layout(NEEDED, (TASK_FILES,), OPTIONAL)
    return offsets, functions[TASK_FILES]


def _pick(name: str, place: int) -> bytes:
    """A field of the record from what was copied to `place`."""
    field = PLACES[name]
    return copy_number(8, field.offset, int(ffi.sizeof(field.type)), 8, place)


def _follow(place: int) -> bytes:
    """What was copied to `place` is the address of what is looked at now."""
    return instruction(0x79, 9, 8, place)


def _copy(struct: dict[str, int], start: int) -> bytes:
    """As much of it as holds its fields, to `start`."""
    return copy_bytes(8, start, max(struct.values()) + 8, 9, 0)


def _picked(struct: dict[str, int], start: int, **fields: str) -> bytes:
    """Fields of the record, by name, from those of a struct at `start`."""
    return b"".join(_pick(name, start + struct[field]) for name, field in fields.items())


@cache
def _program() -> tuple[bytes, bytes]:
    """Its code as far as the map's address, and the rest. Register 6: context, 7: task, then the file's type, 8: the
    map's value, 9: what is looked at. KernelLacks: fields do not lie as expected."""
    of, _ = _layout()
    file, inode, block, timer, event = (
        of[name] for name in ("file", "inode", "super_block", "timerfd_ctx", "eventfd_ctx")
    )
    if max(file.values()) > INODE - FILE - 16 or max(inode.values()) > OTHER - INODE - 16 or SIZE > FILE:
        raise KernelLacks("facts about files", "structs of files are not as expected")
    owner = file["f_owner"] + (0 if "file" in of["fown_struct"] else of["fown_struct"]["pid"])
    code = instruction(0x61, 1, 6, 16) + instruction(0x63, 8, 1, PLACES["fd"].offset)  # context->fd
    code += copy_bytes(8, FILE, max(*file.values(), owner) + 8, 9, 0)
    code += _picked(file, FILE, flags="f_flags", position="f_pos", operations="f_op") + _pick("owner", FILE + owner)
    code += _follow(FILE + file["f_path"] + of["path"]["mnt"])
    code += copy_bytes(8, PLACES["mount"].offset, 4, 9, of["mount"]["mnt_id"] - of["mount"]["mnt"])
    code += copy_bytes(8, OTHER, 8, 7, of["task_struct"]["files"]) + _follow(OTHER)
    code += copy_bytes(8, OTHER, 8, 9, of["files_struct"]["fdt"]) + _follow(OTHER)
    code += copy_bytes(8, OTHER, 8, 9, of["fdtable"]["close_on_exec"]) + _follow(OTHER)
    code += instruction(0x61, 1, 6, 16) + instruction(0x77, 1, value=6) + instruction(0x67, 1, value=3)
    code += instruction(0x0F, 9, 1) + copy_bytes(8, PLACES["cloexec"].offset, 8, 9, 0)
    code += _follow(FILE + file["f_inode"]) + _copy(inode, INODE)
    code += _picked(
        inode, INODE, uid="i_uid", gid="i_gid", links="i_nlink", size="i_size", inode="i_ino", locks="i_flctx"
    )
    code += instruction(0x69, 7, 8, INODE + inode["i_mode"]) + instruction(0x63, 8, 7, PLACES["mode"].offset)
    code += instruction(0x57, 7, value=stat.S_IFMT(0xFFFF))
    seals = of["shmem_inode_info"]["seals"] - of["shmem_inode_info"]["vfs_inode"]
    code += where_equal(7, stat.S_IFREG, copy_bytes(8, PLACES["seals"].offset, 4, 9, seals))
    pipe = _follow(INODE + inode["i_pipe"]) + _copy(of["pipe_inode_info"], OTHER)
    pipe += _picked(
        of["pipe_inode_info"], OTHER, head="head", tail="tail", room="max_usage", readers="readers", writers="writers"
    )
    code += where_equal(7, stat.S_IFIFO, pipe)
    socket = _follow(FILE + file["private_data"]) + copy_bytes(8, OTHER, 8, 9, of["socket"]["sk"]) + _follow(OTHER)
    in_flight = of["unix_sock"]["scm_stat"] + of["scm_stat"]["nr_fds"]
    code += where_equal(7, stat.S_IFSOCK, socket + copy_bytes(8, PLACES["in_flight"].offset, 4, 9, in_flight))
    nameless = _follow(FILE + file["private_data"]) + _copy(timer, OTHER)
    nameless += _picked(
        timer, OTHER, interval="tintv", ticks="ticks", clock="clockid", expired="expired", settime_flags="settime_flags"
    )
    nameless += _pick("expires", OTHER + of["timerqueue_node"]["expires"])  # hrtimers and alarms begin alike
    nameless += _picked(event, OTHER, count="count", event="id")
    code += where_equal(7, 0, nameless)
    code += _follow(INODE + inode["i_sb"]) + _copy(block, OTHER)
    code += _picked(block, OTHER, device="s_dev", magic="s_magic")
    start = instruction(0xBF, 6, 1) + instruction(0x79, 9, 6, 24) + return_if_zero(9)  # context->file
    start += instruction(0x79, 7, 6, 8) + return_if_zero(7)  # context->task
    return start, code + write_out(6, 8, SIZE)


class FileFacts:
    """See open_file_facts()."""

    def __init__(self, stack: ExitStack) -> None:
        start, code = _program()
        code = start + load_map(8, make_map(stack, ARRAY, ROOM), value=True) + code + RETURN_ZERO
        self._program = load_iterator(stack, code, _layout()[1])

    def open_task(self, pid: int) -> int:
        """What read() takes for a task; the caller closes it. OSError."""
        return link_iterator(self._program, tid=pid)

    def read(self, task: int) -> Any:
        """Array of struct mg_file_facts, by descriptor. OSError."""
        return ffi.from_buffer("struct mg_file_facts[]", read_iterator(task))


def find_places(facts: Any, fds: Any) -> Any:
    """Which of them are of these descriptors, ascending, in an array; below 0: none."""
    places = ffi.new("int[]", len(fds))
    lib.mg_find_facts(facts, len(facts), fds, len(fds), places)
    return places


def find_unset_timers(facts: Any, operations: Any) -> list[int]:
    """Descriptors of timerfds that are not armed and not due."""
    fds = ffi.new("int[]", len(facts))
    return list(ffi.unpack(fds, lib.mg_find_unset_timers(facts, len(facts), operations, fds)))


def open_file_facts() -> AbstractContextManager[FileFacts]:
    """For the time of a with block; not tried. KernelLacks: nobody tells here."""
    return opened("facts about files", FileFacts)
