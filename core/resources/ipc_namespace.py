"""Limits of an IPC namespace that a tree has to itself: the sysctls that are the namespace's own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from core.errors import CollectError, ImageError, RestoreError
from core.images import kinds
from core.images.pb.namespaces_pb2 import IpcVarEntry
from core.images.store import ImageSet
from core.kernel.ipc_namespace import in_new_ipc_namespace
from core.plan.segments import OWN_IPC, has_own_ipc, ipc_namespace

SEMAPHORES: Final = "kernel/sem"  # four numbers
SYSCTLS: Final = {
    "msg_ctlmax": "kernel/msgmax", "msg_ctlmnb": "kernel/msgmnb", "msg_ctlmni": "kernel/msgmni",
    "shm_ctlmax": "kernel/shmmax", "shm_ctlall": "kernel/shmall", "shm_ctlmni": "kernel/shmmni",
    "shm_rmid_forced": "kernel/shm_rmid_forced",
}  # fmt: skip
SWITCHES: Final = ("kernel/shm_rmid_forced",)  # no limits: what is not attached yet would go
QUEUES: Final = {  # of a kernel that has POSIX message queues
    "mq_queues_max": "fs/mqueue/queues_max", "mq_msg_max": "fs/mqueue/msg_max",
    "mq_msgsize_max": "fs/mqueue/msgsize_max", "mq_msg_default": "fs/mqueue/msg_default",
    "mq_msgsize_default": "fs/mqueue/msgsize_default",
}  # fmt: skip


def collect(images: ImageSet, collected: ImageSet | None = None) -> None:
    """Of the one that this thread is in, or as `collected`. Source: proc_sys_kernel(5), mq_overview(7)."""
    try:
        entry = collected.one(kinds.IPC_VAR, OWN_IPC) if collected else _read_limits()
    except (OSError, ValueError) as error:
        raise CollectError("IPC namespace", f"its limits cannot be read: {error}") from error
    images.add(kinds.IPC_VAR, entry, OWN_IPC)


def _read_limits() -> IpcVarEntry:
    limits = {field: int(_read(name)) for field, name in SYSCTLS.items()}
    limits |= {field: int(_read(name)) if os.path.exists(_path(name)) else 0 for field, name in QUEUES.items()}
    return IpcVarEntry(sem_ctls=map(int, _read(SEMAPHORES).split()), auto_msgmni=0, **limits)


@contextmanager
def made(images: ImageSet) -> Iterator[bool]:
    """Until the block ends this thread is in a new one where there is room for all of the tree's, and so is whoever it
    starts. Yields whether: nothing is done for a tree that had none to itself. KernelLacks, RestoreError."""
    with ExitStack() as stack:
        own = has_own_ipc(images)
        if own:
            stack.enter_context(in_new_ipc_namespace())
            for name, wanted in _wanted(images):
                if name not in SWITCHES:
                    _write(name, [max(pair) for pair in zip(_numbers(name), wanted, strict=True)])
        yield own


def settle(images: ImageSet) -> None:
    """Everything is made: its limits are the tree's, also those that it lowered since it made more."""
    if has_own_ipc(images):
        for name, wanted in _wanted(images):
            _write(name, wanted)


def _wanted(images: ImageSet) -> Iterator[tuple[str, list[int]]]:
    """Name and numbers of each sysctl that the images tell of; they may have none."""
    id = ipc_namespace(images)
    for entry in images.all(kinds.IPC_VAR, id):
        if len(entry.sem_ctls) != 4:
            raise ImageError(kinds.IPC_VAR.file_name(id), f"has {len(entry.sem_ctls)} limits of semaphores, not 4")
        yield SEMAPHORES, list(entry.sem_ctls)
        for field, name in (SYSCTLS | QUEUES).items():
            if (value := getattr(entry, field)) or field in SYSCTLS:
                yield name, [value]


def _write(name: str, wanted: Sequence[int]) -> None:
    """Where it is not so already: a host may not let anybody write there."""
    text = "\t".join(map(str, wanted))
    try:
        if _numbers(name) != list(wanted):
            with open(_path(name), "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        sysctl = name.replace("/", ".")
        reason = f"IPC namespace: {sysctl}={text}: {os.strerror(error.errno or 0)}"
        raise RestoreError(reason, hint=f"let root write to {_path(name)} here") from error


def _numbers(name: str) -> list[int]:
    return [int(word) for word in _read(name).split()]


def _read(name: str) -> str:
    with open(_path(name), encoding="ascii") as file:
        return file.read()


def _path(name: str) -> str:
    return f"/proc/sys/{name}"
