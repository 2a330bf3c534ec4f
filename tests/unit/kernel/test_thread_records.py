"""What the kernel has of a thread is another as soon as the thread would answer otherwise to anything it is asked."""

import ctypes
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from core.native._kernel import ffi

from core.errors import KernelLacks
from core.kernel.calls import SYSCALLS, address_of
from core.kernel.thread_records import PLACES, Records, open_thread_records
from tests.requires import require_root

libc = ctypes.CDLL(None, use_errno=True)
ALIKE = int(ffi.offsetof("struct mg_record", "special"))  # from here on
CLONE_FS, CLONE_FILES = 0x200, 0x400
BATCH, RESET_ON_FORK = 3, 0x40000000
ALLOW_ALL = struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)  # a filter of one instruction: return SECCOMP_RET_ALLOW
NUMBERS = {**SYSCALLS, "iopl": 172, "ioperm": 173}
Change = Callable[[], object]


def setup_module() -> None:
    require_root()


def call(name: str, *arguments: int | bytes) -> int:
    """A system call; bytes are given by address."""
    held = [one if isinstance(one, int) else address_of(one) for one in arguments]
    result = libc.syscall(NUMBERS[name], *(ctypes.c_long(one) for one in held))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return int(result)


def leave_signal_pending() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    call("tgkill", os.getpid(), threading.get_native_id(), signal.SIGUSR2)


def filter_calls() -> None:
    call("prctl", 38, 1, 0, 0, 0)
    call("seccomp", 1, 0, struct.pack("<H6xQ", 1, address_of(ALLOW_ALL)))


def schedule(policy: int) -> None:
    call("sched_setscheduler", 0, policy, bytes(4))


def one_processor() -> None:
    call("sched_setaffinity", 0, 8, struct.pack("<Q", 1))


CHANGES: dict[str, Change] = {
    "parent-death signal": lambda: call("prctl", 1, signal.SIGUSR1, 0, 0, 0),
    "securebits": lambda: call("prctl", 28, 4, 0, 0, 0),
    "timer slack": lambda: call("prctl", 29, 12345, 0, 0, 0),
    "no_new_privs": lambda: call("prctl", 38, 1, 0, 0, 0),
    "bounding set": lambda: call("prctl", 24, 30, 0, 0, 0),
    "keep capabilities": lambda: call("prctl", 8, 1, 0, 0, 0),
    "group": lambda: call("setresgid", -1, 12345, -1),
    "groups": lambda: call("setgroups", 1, struct.pack("<I", 12345)),
    "keyring": lambda: call("keyctl", 0, -1, 1, 0, 0),
    "nice": lambda: call("setpriority", 0, 0, 5),
    "policy": lambda: schedule(BATCH),
    "policy of children": lambda: schedule(RESET_ON_FORK),
    "processors": one_processor,
    "I/O priority": lambda: call("ioprio_set", 1, 0, 3 << 13),
    "memory policy": lambda: call("set_mempolicy", 4, 0, 0),
    "seccomp": filter_calls,
    "pending signal": leave_signal_pending,
    "working directory": lambda: call("unshare", CLONE_FS),
    "descriptors": lambda: call("unshare", CLONE_FILES),
}

if libc.syscall(NUMBERS["iopl"], 0) == 0:  # not every kernel gives any away
    CHANGES["I/O ports"] = partial(call, "ioperm", 0x80, 1, 1)
    CHANGES["all I/O ports"] = partial(call, "iopl", 3)
SLICE = struct.pack("<IIQiIQQQ", 48, 0, 0, 0, 0, 5_000_000, 0, 0)


def takes_slices() -> bool:
    """Since Linux 6.12."""
    answer, told = bytearray(48), []

    def try_it() -> None:
        call("sched_setattr", 0, SLICE, 0)
        libc.syscall(NUMBERS["sched_getattr"], 0, ctypes.c_long(address_of(answer)), 48, 0)
        told.append(struct.unpack_from("<Q", answer, 24)[0] == 5_000_000)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return told == [True]


if takes_slices():
    CHANGES["time slice"] = partial(call, "sched_setattr", 0, SLICE, 0)
for misfeature in range(3):
    if (state := libc.prctl(52, misfeature, 0, 0, 0)) > 0 and state & 1:  # this processor leaves it to the thread
        CHANGES[f"speculation {misfeature}"] = partial(call, "prctl", 53, misfeature, 4, 0, 0)


@contextmanager
def two_threads(change: Change) -> Iterator[list[int]]:
    """Tids of two that sleep, of which the second made the change."""
    done, ready = threading.Event(), threading.Barrier(3)
    tids: list[int] = [0, 0]
    changed: list[object] = []

    def run(index: int) -> None:
        tids[index] = threading.get_native_id()
        try:
            if index:
                changed.append(change())
        finally:
            ready.wait()
        done.wait()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    try:
        for thread in threads:
            thread.start()
        ready.wait()
        assert changed, "see what the thread has raised"
        yield tids
    finally:
        done.set()
        for thread in threads:
            thread.join()


def read(tids: list[int]) -> Records:
    try:
        with open_thread_records(os.getpid()) as records:
            return records.read(tids)
    except KernelLacks as error:
        pytest.skip(str(error))


def test_threads_that_chose_nothing_are_alike_and_called_what_they_are() -> None:
    with two_threads(lambda: None) as tids:
        records = read(tids)
        assert records.own_tids == {tid: tid for tid in tids}
        assert records.share_tables
    assert records.of(0)[ALIKE:] == records.of(1)[ALIKE:]


@pytest.mark.parametrize("name", CHANGES)
def test_one_that_chose_otherwise_is_another(name: str) -> None:
    with two_threads(CHANGES[name]) as tids:
        records = read(tids)
    assert records.of(0)[ALIKE:] != records.of(1)[ALIKE:]


@pytest.mark.parametrize("name", ["working directory", "descriptors"])
def test_one_that_parted_is_seen(name: str) -> None:
    with two_threads(CHANGES[name]) as tids:
        assert not read(tids).share_tables


def test_the_alternate_stack_is_as_the_thread_would_tell() -> None:
    room = ctypes.create_string_buffer(16384)
    chosen = struct.pack("<QI4xQ", ctypes.addressof(room), 1 << 31, len(room))
    with two_threads(lambda: call("sigaltstack", chosen, 0)) as tids:
        records = read(tids)
    assert records.of(1)[PLACES.stack :][: len(chosen)] == chosen
    assert struct.unpack_from("<QI4xQ", records.of(0), PLACES.stack) == (0, 2, 0)


def test_one_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LookupError):
        read([os.getpid(), 1 << 22])
