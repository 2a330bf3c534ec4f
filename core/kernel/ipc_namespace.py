"""IPC namespaces: this thread is in the target's, or in a new one, for a while. Source: ipc_namespaces(7)."""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from core.errors import KernelLacks
from core.kernel.calls import syscall
from core.proc.main_thread import main_thread
from core.proc.reader import ProcReader

CLONE_NEWIPC: Final = 0x08000000


class _Home(threading.local):
    """Where each thread came from; below 0: it is there."""

    fd = -1


_home: Final = _Home()


@contextmanager
def in_ipc_namespace_of(pid: int) -> Iterator[bool]:
    """This thread sees what `pid` sees of IPC until the block ends. Yields whether that is another namespace than it
    was in; KernelLacks when it may not enter that, ProcessLookupError when `pid` has ended."""
    tid = main_thread(pid, ProcReader())  # whoever has ended is in none
    if with_us([tid]):
        yield False
        return
    with _elsewhere(lambda: _enter(_link(tid)), f"IPC namespace of {pid}: cannot be entered"):
        yield True


@contextmanager
def in_new_ipc_namespace() -> Iterator[None]:
    """This thread is in an empty one until the block ends, and so is whoever it starts. KernelLacks."""
    with _elsewhere(lambda: syscall("unshare", CLONE_NEWIPC), "IPC namespace: none can be made"):
        yield


@contextmanager
def at_home() -> Iterator[None]:
    """This thread is where it was before it went to any of them, until the block ends."""
    away, _home.fd = _home.fd, -1
    if away < 0:
        yield
        return
    there = os.open(_link(threading.get_native_id()), os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscall("setns", away, CLONE_NEWIPC)
        yield
    finally:
        syscall("setns", there, CLONE_NEWIPC)
        os.close(there)
        _home.fd = away


def with_us(tids: Iterable[int]) -> list[int]:
    """Those of `tids` that are in the one that this thread is in; without those that we may not look at."""
    everybody = [threading.get_native_id(), *tids]
    links = ProcReader().links([(tid, "ns/ipc") for tid in everybody])
    # A kernel without these namespaces has none of the links: all are in the same one.
    ours, *theirs = (b"" if isinstance(one, FileNotFoundError) else one for one in links)
    return [tid for tid, one in zip(everybody[1:], theirs, strict=True) if one == ours]


def _link(tid: int) -> str:
    return f"/proc/{tid}/ns/ipc"


@contextmanager
def _elsewhere(go: Callable[[], object], what: str) -> Iterator[None]:
    """Until the block ends where `go` leads to, if it does."""
    ours, before = os.open(_link(threading.get_native_id()), os.O_RDONLY | os.O_CLOEXEC), _home.fd
    try:
        try:
            go()
        except ProcessLookupError:
            raise
        except OSError as error:
            raise KernelLacks("ipc_namespace", f"{what}: {os.strerror(error.errno or 0)}") from error
        _home.fd = ours if before < 0 else before
        try:
            yield
        finally:
            _home.fd = before
            syscall("setns", ours, CLONE_NEWIPC)
    finally:
        os.close(ours)


def _enter(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, f"{path}: has ended") from error
    try:
        syscall("setns", fd, CLONE_NEWIPC)
    finally:
        os.close(fd)
