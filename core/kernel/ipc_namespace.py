"""IPC namespaces: this thread is in the target's, or in a new one, for a while. Source: ipc_namespaces(7)."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from core.errors import KernelLacks
from core.kernel.calls import syscall
from core.proc.reader import ProcReader

CLONE_NEWIPC: Final = 0x08000000


@contextmanager
def in_ipc_namespace_of(pid: int) -> Iterator[bool]:
    """This thread sees what `pid` sees of IPC until the block ends. Yields whether that is another namespace than it
    was in; KernelLacks when it may not enter that, or `pid` has ended."""
    with ExitStack() as stack:
        is_another = not with_us([pid])
        if is_another:
            stack.enter_context(_coming_back())
            _enter(pid)
        yield is_another


@contextmanager
def in_new_ipc_namespace() -> Iterator[None]:
    """This thread is in an empty one until the block ends, and so is whoever it starts. KernelLacks."""
    with _coming_back():
        try:
            syscall("unshare", CLONE_NEWIPC)
        except OSError as error:
            raise KernelLacks("IPC namespace", f"cannot be made: {os.strerror(error.errno or 0)}") from error
        yield


def with_us(pids: Iterable[int]) -> list[int]:
    """Those of `pids` that are in the one that this thread is in; without those that we may not look at."""
    reader = ProcReader()
    ours, found = reader.namespace(threading.get_native_id(), "ipc"), []
    for pid in pids:
        with suppress(OSError):
            if reader.namespace(pid, "ipc") == ours:
                found.append(pid)
    return found


def _link(tid: int) -> str:
    return f"/proc/{tid}/ns/ipc"


@contextmanager
def _coming_back() -> Iterator[None]:
    ours = os.open(_link(threading.get_native_id()), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            syscall("setns", ours, CLONE_NEWIPC)
        finally:
            os.close(ours)


def _enter(pid: int) -> None:
    try:
        theirs = os.open(_link(pid), os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscall("setns", theirs, CLONE_NEWIPC)
        finally:
            os.close(theirs)
    except OSError as error:
        raise KernelLacks(f"IPC namespace of {pid}", f"cannot be entered: {os.strerror(error.errno or 0)}") from error
