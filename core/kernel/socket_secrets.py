"""What belongs to a socket and no call tells: read from the kernel's own memory. Source: linux/tcp.h, net/sock.h."""

from collections.abc import Collection

from core.errors import KernelLacks
from core.kernel.kernel_memory import KernelMemory, open_kernel_memory

SOCKET = ("socket", ("sk",))
GROUPS = (SOCKET, ("sock", ("sk_reuseport_cb",)), ("sock_reuseport", ("prog",)))
KEYS = ("md5sig_info", "ao_info")  # of struct tcp_sock; a kernel may be built without either


def with_group_program(fds: Collection[int]) -> set[int]:
    """Those of our descriptors whose group (SO_REUSEPORT) has a program that chooses among its sockets. KernelLacks."""
    with open_kernel_memory(*GROUPS) as memory:
        return {fd for fd in fds if (group := _field(memory, fd, "sock", "sk_reuseport_cb"))
                and memory.field(group, "sock_reuseport", "prog")}  # fmt: skip


def with_keys(fds: Collection[int]) -> set[int]:
    """Those of our descriptors, of TCP, that sign or check what they send or get: TCP_MD5SIG, TCP_AO."""
    found: set[int] = set()
    for name in KEYS:
        try:
            with open_kernel_memory(SOCKET, ("tcp_sock", (name,))) as memory:
                found |= {fd for fd in fds if _field(memory, fd, "tcp_sock", name)}
        except KernelLacks:
            continue
    return found


def _field(memory: KernelMemory, fd: int, struct_name: str, field: str) -> int:
    return memory.field(memory.field(memory.private_data(fd), "socket", "sk"), struct_name, field)
