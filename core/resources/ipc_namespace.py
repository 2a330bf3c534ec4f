"""Limits of an IPC namespace that a tree has to itself: the sysctls that are the namespace's own."""

import os
from collections.abc import Iterator
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
QUEUES: Final = {  # of a kernel that has POSIX message queues
    "mq_queues_max": "fs/mqueue/queues_max", "mq_msg_max": "fs/mqueue/msg_max",
    "mq_msgsize_max": "fs/mqueue/msgsize_max", "mq_msg_default": "fs/mqueue/msg_default",
    "mq_msgsize_default": "fs/mqueue/msgsize_default",
}  # fmt: skip


def collect(images: ImageSet) -> None:
    """Of the one that this thread is in. Source: proc_sys_kernel(5), mq_overview(7)."""
    try:
        limits = {field: int(_read(name)) for field, name in SYSCTLS.items()}
        limits |= {field: int(_read(name)) if os.path.exists(_path(name)) else 0 for field, name in QUEUES.items()}
        semaphores = [int(word) for word in _read(SEMAPHORES).split()]
    except (OSError, ValueError) as error:
        raise CollectError("IPC namespace", f"its limits cannot be read: {error}") from error
    images.add(kinds.IPC_VAR, IpcVarEntry(sem_ctls=semaphores, auto_msgmni=0, **limits), OWN_IPC)


@contextmanager
def made(images: ImageSet) -> Iterator[bool]:
    """Until the block ends this thread is in a new one with those limits, and so is whoever it starts. Yields whether:
    nothing is done for a tree that had none to itself. KernelLacks, RestoreError."""
    with ExitStack() as stack:
        own = has_own_ipc(images)
        if own:
            stack.enter_context(in_new_ipc_namespace())
            _settle(images)
        yield own


def _settle(images: ImageSet) -> None:
    """Images without limits leave it as the kernel made it."""
    if not images.has(kinds.IPC_VAR, id := ipc_namespace(images)):
        return
    for name, wanted in _wanted(images.one(kinds.IPC_VAR, id)):
        try:
            if _read(name).split() != wanted.split():
                with open(_path(name), "w", encoding="ascii") as file:
                    file.write(wanted)
        except OSError as error:
            sysctl = name.replace("/", ".")
            raise RestoreError(f"IPC namespace: {sysctl}={wanted}: {os.strerror(error.errno or 0)}") from error


def _wanted(entry: IpcVarEntry) -> Iterator[tuple[str, str]]:
    """Name and content of each sysctl."""
    if len(entry.sem_ctls) != 4:
        raise ImageError("ipcns-var", f"has {len(entry.sem_ctls)} limits of semaphores, must have 4")
    yield SEMAPHORES, "\t".join(map(str, entry.sem_ctls))
    for field, name in (SYSCTLS | QUEUES).items():
        if (value := getattr(entry, field)) or field in SYSCTLS:
            yield name, str(value)


def _read(name: str) -> str:
    with open(_path(name), encoding="ascii") as file:
        return file.read()


def _path(name: str) -> str:
    return f"/proc/sys/{name}"
