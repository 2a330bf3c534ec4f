"""What a task is told to do: an ordered list of syscalls with the reason for each.

Pure descriptions. Encoding to bytes is encode.py, running them is core/tracee/borrow.py.
"""

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Result:
    """Stands for what an earlier op of the same program returned; `op` is that very object."""

    op: "Syscall"


@dataclass(frozen=True, slots=True)
class Out:
    """A buffer of `size` bytes that the syscall fills; read back through `Results.out(op, argument)`.

    `fill` is what each byte is until then.
    """

    size: int
    fill: int = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """Stands for the 32 bits (signed) at `offset` of the Out buffer that was argument `argument` of an earlier op;
    `wide`: for 64 bits."""

    op: "Syscall"
    argument: int
    offset: int = 0
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Pointers:
    """A struct of 64-bit words, some of which point at further buffers, e.g. an iovec or a msghdr."""

    words: "tuple[int | bytes | Pointers, ...]"


Argument: TypeAlias = int | bytes | Result | Loaded | Out | Pointers


@dataclass(frozen=True, slots=True, eq=False)
class Syscall:
    """One syscall: name as in asm/unistd_64.h, up to six arguments, `why` names object and resource for the message.

    bytes are placed in the task's program area and passed as a pointer; a path needs its own NUL.
    With may_fail the error is a result like any other; without, the program stops there.
    """

    name: str
    args: tuple[Argument, ...]
    why: str
    may_fail: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Yield:
    """The task stops here for its tracer, and goes on by itself should the tracer be gone."""

    why: str


Program: TypeAlias = tuple[Syscall, ...]
ProgramWithYields: TypeAlias = tuple[Syscall | Yield, ...]


def path_argument(path: str) -> bytes:
    """NUL-terminated bytes of `path` for an openat(2)-like argument."""
    return path.encode("utf-8", "surrogateescape") + b"\0"


@dataclass(slots=True)
class FdAllocator:
    """Foretells which descriptor open(2) will give: always the lowest free one.

    The stem begins with no descriptor at all and only we open some, so the answer is exact.
    """

    used: set[int] = field(default_factory=set)
    _floor: int = 0  # every number below is used

    def take(self) -> int:
        """Number that the next descriptor-making syscall returns; now in use."""
        while self._floor in self.used:
            self._floor += 1
        self.used.add(self._floor)
        return self._floor

    def release(self, fd: int) -> None:
        """`fd` was closed."""
        self.used.discard(fd)
        self._floor = min(self._floor, fd)
