"""Descriptors that no kind carries: names each so that a person knows what it is."""

import socket
import stat
from typing import Final

from core.errors import Blocker
from core.resources.context import OpenFile

ANONYMOUS: Final = {
    "[io_uring]": "io_uring",
    "[userfaultfd]": "userfaultfd",
    "[perf_event]": "a performance counter",
    "bpf-map": "a BPF map",
    "bpf-prog": "a BPF program",
    "[kvm-vm]": "a virtual machine",
    "seccomp notify": "a seccomp listener",
}
NEVER: Final = "the program must not hold it when it is migrated"
HINTS: Final = {"[io_uring]": "start it without: innodb_use_native_aio=OFF of mariadb, UV_USE_IO_URING=0 of Node.js"}
FAMILIES: Final = {
    int(family): family.name for family in (socket.AF_PACKET, socket.AF_INET, socket.AF_INET6, socket.AF_VSOCK)
}


def refuse(file: OpenFile) -> Blocker:
    """The refusal for a descriptor that no kind claims."""
    kind, hint = _describe(file)
    return file.blocker("kind", f"{kind} cannot be carried", hint)


def _describe(file: OpenFile) -> tuple[str, str]:
    if file.socket is not None:
        name = FAMILIES.get(file.socket.domain, f"family {file.socket.domain}")
        return (
            f"a socket of {name}, protocol {file.socket.protocol},",
            "only TCP, UDP, UNIX and netlink sockets are carried",
        )
    if file.link.startswith("anon_inode:"):
        word = file.link.removeprefix("anon_inode:")
        return ANONYMOUS.get(word, f"an object of kind {word}"), HINTS.get(word, NEVER)
    if stat.S_ISCHR(file.stat.st_mode):
        return "a device", NEVER
    if stat.S_ISBLK(file.stat.st_mode):
        return "a block device", NEVER
    return "a file of unknown kind", NEVER
