"""A task with a proxied vDSO is recognised by its mark, and to a dump looks as if it had never been moved."""

from core.memory.ranges import Ranges
from core.proc.maps import Vma
from core.vdso.mark import PAGE_SIZE, encode_mark, find_mark, parse_mark, unproxied, vdso_code
from tests.unit.vdso.images import foreign_places

KNOWN = foreign_places(0x7FFD_0000_0000)
BLOCK = 0x7FFE_0000_0000
MARK = Vma(BLOCK, BLOCK + PAGE_SIZE, True, False, False, False)
TEXT = Vma(0x40_0000, 0x40_1000, True, False, True, False, inode=7, path="/bin/true")
KERNELS = (
    Vma(BLOCK + 0x1000, BLOCK + 0x5000, True, False, False, False, path="[vvar]"),
    Vma(BLOCK + 0x5000, BLOCK + 0x7000, True, False, False, False, path="[vvar_vclock]"),
    Vma(BLOCK + 0x7000, BLOCK + 0x9000, True, False, True, False, path="[vdso]"),
)
PROXY = (
    Vma(KNOWN["[vvar]"][0], KNOWN["[vvar]"][1], True, False, False, False),
    Vma(KNOWN["[vdso]"][0], KNOWN["[vdso]"][1], True, False, True, False),
)
VMAS = (TEXT, *PROXY, MARK, *KERNELS)


def read_mark(address: int, size: int) -> bytes:
    assert (address, size) == (MARK.start, PAGE_SIZE)
    return encode_mark(KNOWN)


def test_a_mark_tells_what_it_was_made_of() -> None:
    assert parse_mark(encode_mark(KNOWN)) == KNOWN
    assert find_mark(VMAS, read_mark) == (MARK, KNOWN)


def test_a_page_that_is_no_mark_is_none() -> None:
    assert parse_mark(bytes(PAGE_SIZE)) is None
    assert find_mark(VMAS, lambda _address, size: b"\x7fELF".ljust(size, b"\0")) is None


def test_a_task_that_was_never_moved_is_not_even_read() -> None:
    native = (TEXT, *KERNELS)
    assert unproxied(native, lambda *_: b"") == native
    code = vdso_code(native, lambda *_: b"")
    assert code.spans == Ranges.of([KERNELS[2][:2]]) and not code.proxied


def test_a_proxied_task_looks_as_it_did_at_first() -> None:
    vvar = Vma(*KNOWN["[vvar]"], True, False, False, False, path="[vvar]")
    vdso = Vma(*KNOWN["[vdso]"], True, False, True, False, path="[vdso]")
    assert unproxied(VMAS, read_mark) == (TEXT, vvar, vdso)


def test_zero_pages_that_merged_are_told_apart() -> None:
    three = {"[vvar]": (0x1000, 0x5000), "[vvar_vclock]": (0x5000, 0x7000), "[vdso]": (0x7000, 0x9000)}
    merged = Vma(0x1000, 0x7000, True, False, False, False)
    code = Vma(0x7000, 0x9000, True, False, True, False)
    found = unproxied((merged, code, MARK, *KERNELS), lambda *_: encode_mark(three))
    assert {vma.name: vma[:2] for vma in found} == three


def test_threads_of_a_proxied_task_may_be_in_both() -> None:
    assert vdso_code(VMAS, read_mark).spans == Ranges.of([KNOWN["[vdso]"], KERNELS[2][:2]])
    assert vdso_code(VMAS, read_mark).proxied


def test_a_writable_page_below_is_no_mark() -> None:
    writable = Vma(BLOCK, BLOCK + PAGE_SIZE, True, True, False, False)
    assert find_mark((writable, *KERNELS), lambda *_: encode_mark(KNOWN)) is None
