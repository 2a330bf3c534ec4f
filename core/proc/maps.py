"""/proc/PID/maps and smaps: the VMAs of an address space and their VmFlags."""

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from core.proc.text import malformed

_PERMISSIONS: Final = {
    f"{r}{w}{x}{s}": (r == "r", w == "w", x == "x", s == "s") for r in "r-" for w in "w-" for x in "x-" for s in "ps"
}
HUGE_ANONYMOUS: Final = "/anon_hugepage (deleted)"
AIO_RING: Final = "/[aio] (deleted)"


class Vma(NamedTuple):
    """One mapping: bytes [start, end), file offset in bytes. `path` is as the kernel shows it, " (deleted)" included.

    A tuple and not a dataclass: hundreds are made per pre-copy round, and this is three times as quick.
    """

    start: int
    end: int
    readable: bool
    writable: bool
    executable: bool
    shared: bool
    offset: int = 0
    device: tuple[int, int] = (0, 0)
    inode: int = 0
    path: str = ""

    @property
    def name(self) -> str:
        """ "[heap]", "[stack]", "[vdso]", "[anon:…]"; empty for a file or a nameless mapping."""
        return self.path if self.path.startswith("[") else ""

    @property
    def is_anonymous(self) -> bool:
        """True when no file is behind it. Shared anonymous memory is a file of the kernel's: "/dev/zero (deleted)"."""
        return not self.inode and not self.path.startswith(("/", "anon_inode:"))

    @property
    def is_private_huge(self) -> bool:
        """Private memory of huge pages (hugetlb): to the kernel it is a file."""
        return not self.shared and self.path == HUGE_ANONYMOUS

    @property
    def is_aio_ring(self) -> bool:
        """The ring of a context of io_setup(2)."""
        return self.path == AIO_RING

    @property
    def is_deleted(self) -> bool:
        """True when the file has no name any more."""
        return bool(self.inode) and self.path.endswith(" (deleted)")

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


class SmapsVma(NamedTuple):
    """A mapping with its VmFlags (proc(5): two letters each; "keyN": its protection key) and what of it is resident or
    swapped, in bytes.
    """

    vma: Vma
    flags: frozenset[str]
    rss_bytes: int = 0
    swap_bytes: int = 0


def parse_maps(text: str, file: str = "maps") -> tuple[Vma, ...]:
    """Mappings in ascending order. Source: proc_pid_maps(5)."""
    vmas = []
    for number, line in enumerate(text.split("\n"), 1):
        if line:
            vmas.append(_parse_vma(line, file, number))
    return tuple(vmas)


def parse_named(text: str, name: str, file: str = "maps") -> tuple[Vma, ...]:
    """Those by this name alone ([stack]), of a text of thousands."""
    end, lines, at = f" {name}\n", [], 0
    while (at := text.find(end, at)) >= 0:
        at += len(end)
        lines.append(text[text.rfind("\n", 0, at - 1) + 1 : at])
    return tuple(vma for vma in parse_maps("".join(lines), file) if vma.name == name)


def parse_between(text: str, start: int, end: int, file: str = "maps") -> tuple[Vma, ...]:
    """Those that have something in [start, end) alone, of a text of thousands."""
    lines = text.split("\n")[:-1]
    try:
        first = bisect_right(lines, start, key=lambda line: int(line[line.index("-") + 1 : line.index(" ")], 16))
        past = bisect_left(lines, end, first, key=lambda line: int(line[: line.index("-")], 16))
    except ValueError:
        return tuple(vma for vma in parse_maps(text, file) if vma.start < end and vma.end > start)
    return parse_maps("\n".join(lines[first:past]), file)


def _parse_vma(line: str, file: str, number: int) -> Vma:
    fields = line.split(None, 5)
    try:
        start, _, end = fields[0].partition("-")
        major, _, minor = fields[3].partition(":")
        path = fields[5] if len(fields) > 5 else ""
        if "\\" in path:
            path = path.replace("\\012", "\n")  # the only character that maps escapes
        return Vma(
            int(start, 16), int(end, 16), *_PERMISSIONS[fields[1]], int(fields[2], 16),
            (int(major, 16), int(minor, 16)), int(fields[4]), path,
        )  # fmt: skip
    except (ValueError, KeyError, IndexError):
        raise malformed(file, number, line) from None


def parse_smaps(text: str, file: str = "smaps") -> tuple[SmapsVma, ...]:
    """Mappings with VmFlags, ascending. Source: proc_pid_smaps(5)."""
    found: list[SmapsVma] = []
    vma: Vma | None = None
    flags: frozenset[str] = frozenset()
    rss = swap = 0
    for number, line in enumerate(text.split("\n"), 1):
        if line[:1].isupper():  # the names of facts about a mapping
            match line[:4]:  # there are hundreds of thousands of lines in a crowd of processes
                case "VmFl":
                    flags |= frozenset(line.split()[1:])
                case "Prot":
                    flags |= {f"key{line.split()[1]}"}
                case "Rss:":
                    rss = _parse_kilobytes(line, file, number)
                case "Swap" if line[4:5] == ":":
                    swap = _parse_kilobytes(line, file, number)
        elif line:
            if vma is not None:
                found.append(SmapsVma(vma, flags, rss, swap))
            vma, flags, rss, swap = _parse_vma(line, file, number), frozenset(), 0, 0
    if vma is not None:
        found.append(SmapsVma(vma, flags, rss, swap))
    return tuple(found)


def _parse_kilobytes(line: str, file: str, number: int) -> int:
    fields = line.split()
    if len(fields) != 3 or not fields[1].isdecimal():
        raise malformed(file, number, line)
    return int(fields[1]) * 1024
