"""Plans where [vdso] and its like go in a task in the making: in place of those it knew, or far off behind a proxy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import RestoreError
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.plan.ops import Program, Syscall
from core.proc.maps import Vma
from core.tracee.remote import TASK_SIZE, find_hole
from core.vdso.layout import VdsoLayout, make_layout
from core.vdso.mark import NAMES, Places, encode_mark
from core.vdso.proxy import proxy_heads, proxy_image

MREMAP_MAYMOVE_FIXED: Final = 3
MAP_PRIVATE_ANONYMOUS_NOREPLACE: Final = 0x2 | 0x20 | 0x100000
PROT_READ, PROT_READ_EXEC = 1, 5
NO_FD: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class VdsoPlan:
    """`program` moves and maps, then `content` (address, bytes) is written through any protection.

    `reserved` is what the task's own memory, which never knew of it, has to keep out of; in `overwritten` are
    instructions that no thread can go on from.
    """

    program: Program
    content: tuple[tuple[int, bytes], ...] = ()
    reserved: Ranges = EMPTY
    overwritten: Ranges = EMPTY


def plan_aside(here: Sequence[Vma], avoid: Sequence[Vma]) -> Program:
    """Move the kernel's own VMAs to where nothing of `avoid` will be."""
    mine = [vma for vma in here if vma.name in NAMES]
    hole = find_hole([*here, *avoid], sum(vma.size for vma in mine))
    ops: list[Syscall] = []
    for vma in mine:
        ops.append(_move(vma.name, vma.start, hole, vma.size))
        hole += vma.size
    return tuple(ops)


def plan_vdso(here: Sequence[Vma], wanted: Places, image: bytes, avoid: Sequence[Vma], ours: VdsoLayout) -> VdsoPlan:
    """Give a stem with the VMAs `here`, among them this kernel's vDSO as in `ours`, the vDSO that its task knew.

    `wanted`: name → (start, end); `image`: content of its [vdso], b"" when nobody knows, which then has to have the
    size of ours. `avoid`: all that the task will have mapped. ImageError, RestoreError.
    """
    mine = {vma.name: vma for vma in here if vma.name in NAMES}
    if not image or "[vdso]" not in wanted:
        _check_same_sizes(mine, wanted)
    elif make_layout(wanted, image) != ours:
        return _plan_proxy(mine, [*here, *avoid], wanted, image, ours)
    return VdsoPlan(_plan_in_place(mine, [*here, *avoid], wanted))


def _plan_in_place(mine: Mapping[str, Vma], taken: Sequence[Vma], wanted: Places) -> Program:
    """By way of a hole, where both may overlap."""
    gone = [vma for name, vma in mine.items() if name not in wanted]
    ops = [Syscall("munmap", (vma.start, vma.size), f"{vma.name}, which the task has none of") for vma in gone]
    hole = find_hole(taken, sum(vma.size for vma in mine.values()))
    back = []
    for name, (start, _) in wanted.items():
        size = mine[name].size
        ops.append(_move(name, mine[name].start, hole, size))
        back.append(_move(name, hole, start, size))
        hole += size
    return (*ops, *back)


def _plan_proxy(
    mine: Mapping[str, Vma], taken: Sequence[Vma], wanted: Places, image: bytes, ours: VdsoLayout
) -> VdsoPlan:
    """This kernel's go where no program maps anything, above the stack; the image that was dumped leads to them."""
    if set(mine) != {name for name, _, _ in ours.vmas}:
        raise RestoreError(f"[vdso]: a new task has {', '.join(mine) or 'none'}, unlike this process of ours")
    lowest = min(offset for _, offset, _ in ours.vmas)
    size = max(offset + length for _, offset, length in ours.vmas) - lowest
    mark = _find_high_hole(taken, PAGE_SIZE + size)
    base = mark + PAGE_SIZE - lowest
    functions = {name: base + offset for name, offset, _ in ours.symbols}
    start = wanted["[vdso]"][0]
    overwritten = Ranges.of(
        (start + offset + 1, start + offset + len(head)) for offset, head in proxy_heads(image, functions).items()
    )
    ops = [_move(name, mine[name].start, base + offset, length) for name, offset, length in ours.vmas]
    ops.append(_map("mark of the vDSO's proxy", mark, PAGE_SIZE, PROT_READ))
    for name, (begin, end) in wanted.items():
        ops.append(_map(f"proxied {name}", begin, end - begin, PROT_READ_EXEC if name == "[vdso]" else PROT_READ))
    writes = ((mark, encode_mark(wanted)), (start, proxy_image(image, functions)))
    return VdsoPlan(tuple(ops), writes, Ranges.of([(mark, mark + PAGE_SIZE + size)]), overwritten)


def _find_high_hole(taken: Sequence[Vma], size: int) -> int:
    user = [vma for vma in taken if vma.end <= TASK_SIZE]
    found = find_hole(user, size, max((vma.end for vma in user), default=0) + PAGE_SIZE)
    return found if found + size + PAGE_SIZE <= TASK_SIZE else find_hole(taken, size)


def _move(name: str, start: int, target: int, length: int) -> Syscall:
    return Syscall("mremap", (start, length, length, MREMAP_MAYMOVE_FIXED, target), f"{name} to {target:#x}")


def _map(what: str, start: int, size: int, protection: int) -> Syscall:
    return Syscall("mmap", (start, size, protection, MAP_PRIVATE_ANONYMOUS_NOREPLACE, NO_FD, 0), what)


def _check_same_sizes(mine: Mapping[str, Vma], wanted: Places) -> None:
    for name in sorted({*mine, *wanted}) if "[vdso]" in wanted else ():
        start, end = wanted.get(name, (0, 0))
        size = mine[name].size if name in mine else 0
        if size != end - start:
            raise RestoreError(
                f"{name}: the task had {end - start:#x} bytes, this kernel gives {size:#x}: the vDSO of both kernels "
                "differ, and the images lack the pages of [vdso]"
            )
