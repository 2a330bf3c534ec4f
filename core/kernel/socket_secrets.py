"""What belongs to a socket and no call tells: read from the kernel's own memory. Source: linux/tcp.h, net/sock.h."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from core.errors import KernelLacks
from core.kernel.kernel_memory import KernelMemory, open_kernel_memory

SOCKET = ("socket", ("sk",))
GROUPS = (SOCKET, ("sock", ("sk_reuseport_cb",)), ("sock_reuseport", ("prog",)))
KEYS = ("md5sig_info", "ao_info")  # of struct tcp_sock; a kernel may be built without either

Asker = Callable[[int], bool]  # of a descriptor of ours


@contextmanager
def asking_for_programs() -> Iterator[Asker]:
    """Whether a socket's group (SO_REUSEPORT) has a program that chooses among its sockets. KernelLacks."""
    with open_kernel_memory(*GROUPS) as memory:

        def has_program(fd: int) -> bool:
            group = _field(memory, fd, "sock", "sk_reuseport_cb")
            return bool(group and memory.field(group, "sock_reuseport", "prog"))

        yield has_program


@contextmanager
def asking_for_keys() -> Iterator[Asker]:
    """Whether a socket of TCP signs or checks what it sends or gets: TCP_MD5SIG, TCP_AO."""
    with ExitStack() as stack:
        memories: dict[str, KernelMemory] = {}
        for name in KEYS:
            with suppress(KernelLacks):
                memories[name] = stack.enter_context(open_kernel_memory(SOCKET, ("tcp_sock", (name,))))
        yield lambda fd: any(_field(memory, fd, "tcp_sock", name) for name, memory in memories.items())


def _field(memory: KernelMemory, fd: int, struct_name: str, field: str) -> int:
    return memory.field(memory.field(memory.private_data(fd), "socket", "sk"), struct_name, field)
