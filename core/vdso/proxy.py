"""A vDSO from another kernel, in the place where the task's libc found its functions: each leads to this kernel's.

The rest of its code stays. Where it was interrupted in the middle it goes on, over data of zeros, in which it finds no
clock and asks the kernel instead.
"""

import struct
from collections.abc import Mapping
from typing import Final

from core.errors import ImageError, RestoreError
from core.kernel.calls import SYSCALLS
from core.vdso.layout import parse_symbols

PREFIX: Final = "__vdso_"
ENOSYS: Final = 38
# Its opaque state is laid out, and told to be fresh, by the kernel that it was made for: only the system call is safe.
ALWAYS_SYSCALL: Final = frozenset({"getrandom"})


def proxy_image(image: bytes, ours: Mapping[str, int]) -> bytes:
    """`image` with each function that it exports leading to `ours` (name → address), or else to its system call.

    A function that is neither here nor a system call answers -ENOSYS. ImageError, RestoreError.
    """
    content = bytearray(image)
    for offset, code in proxy_heads(image, ours).items():
        content[offset : offset + len(code)] = code
    return bytes(content)


def proxy_heads(image: bytes, ours: Mapping[str, int]) -> dict[int, bytes]:
    """The code that goes to the beginning of each function, by offset."""
    heads = {}
    for (offset, size), names in _functions(image).items():
        code = _code(names, ours)
        if offset + size > len(image):
            raise ImageError("[vdso]", f"{names[0]} lies outside of it")
        if size < len(code):
            raise RestoreError(f"[vdso]: {names[0]} has {size} bytes, its way to this kernel's takes {len(code)}")
        heads[offset] = code
    return heads


def _functions(image: bytes) -> dict[tuple[int, int], list[str]]:
    """Names of each function by its place."""
    found: dict[tuple[int, int], list[str]] = {}
    for name, offset, size in parse_symbols(image):
        found.setdefault((offset, size), []).append(name)
    return found


def _code(names: list[str], ours: Mapping[str, int]) -> bytes:
    bare = {name.removeprefix(PREFIX) for name in names}
    if not bare & ALWAYS_SYSCALL and (target := next((ours[name] for name in names if name in ours), 0)):
        return jump(target)
    return syscall_stub(next((SYSCALLS[name] for name in sorted(bare) if name in SYSCALLS), None))


def jump(target: int) -> bytes:
    """movabs $target, %rax; jmp *%rax. No argument of a call is in rax."""
    return b"\x48\xb8" + struct.pack("<Q", target) + b"\xff\xe0"


def syscall_stub(number: int | None) -> bytes:
    """The system call with the function's first three arguments, the fourth never being one; None: -ENOSYS."""
    fail = b"\x48\xc7\xc0" + struct.pack("<i", -ENOSYS) + b"\xc3"  # mov $-ENOSYS, %rax; ret
    if number is None:
        return fail
    call = b"\xb8" + struct.pack("<i", number) + b"\x0f\x05\xc3"  # mov $number, %eax; syscall; ret
    if number != SYSCALLS["getrandom"]:
        return call
    # getrandom with an opaque_len of -1 asks for the layout of that state
    asked_for_layout = b"\x49\x83\xf8\xff\x75" + bytes([len(fail)])  # cmp $-1, %r8; jne over `fail`
    return asked_for_layout + fail + call
