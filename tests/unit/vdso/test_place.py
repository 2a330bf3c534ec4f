"""A vDSO of the same layout takes the place of the dumped one; another goes far off, behind a proxy."""

import pytest

from core.errors import ImageError, RestoreError
from core.memory.ranges import Ranges
from core.proc.maps import Vma
from core.vdso.layout import make_layout, parse_symbols
from core.vdso.mark import NAMES, Places, parse_mark
from core.vdso.place import plan_vdso
from core.vdso.proxy import proxy_image
from tests.unit.vdso.images import IMAGES, foreign_places

BASE = 0x7FFF_1000_0000
HERE = 0x7FFE_0000_0000
THREE = {"[vvar]": (-0x6000, -0x2000), "[vvar_vclock]": (-0x2000, 0), "[vdso]": (0, 0x2000)}
DIFFERENT = pytest.mark.parametrize(
    ("there", "here"), [(one, other) for one in IMAGES for other in IMAGES if one != other]
)


def places(kernel: str, base: int) -> dict[str, tuple[int, int]]:
    """As the kernel lays them out: "own" like those since 6.13."""
    if kernel != "own":
        return foreign_places(base)
    return {name: (base + start, base + end) for name, (start, end) in THREE.items()}


def vmas_of(found: Places) -> list[Vma]:
    return [Vma(start, end, True, False, name == "[vdso]", False, path=name) for name, (start, end) in found.items()]


def plan(there: str, here: str, image: bytes | None = None):  # type: ignore[no-untyped-def]
    ours = make_layout(places(here, HERE), IMAGES[here])
    wanted = places(there, BASE)
    image = IMAGES[there] if image is None else image
    return plan_vdso(vmas_of(places(here, HERE)), wanted, image, vmas_of(wanted), ours)


def moved(program) -> dict[str, int]:  # type: ignore[no-untyped-def]
    """Name → where it is in the end."""
    return {op.why.split()[0]: op.args[4] for op in program if op.name == "mremap"}


@pytest.mark.parametrize("kernel", IMAGES)
def test_an_equal_layout_goes_where_the_dumped_one_was(kernel: str) -> None:
    found = plan(kernel, kernel)
    assert moved(found.program) == {name: start for name, (start, _) in places(kernel, BASE).items()}
    assert not found.content and not found.reserved


@DIFFERENT
def test_another_one_keeps_its_shape_next_to_a_mark(there: str, here: str) -> None:
    found = plan(there, here)
    targets = moved(found.program)
    shape = places(here, 0)
    assert {name: start - targets["[vdso]"] for name, start in targets.items()} == {
        name: start for name, (start, _) in shape.items()
    }
    (mark, page), (address, content) = found.content
    assert mark + 4096 == min(targets.values())
    assert parse_mark(page) == places(there, BASE)
    assert address == BASE
    ours = make_layout(places(here, HERE), IMAGES[here])
    assert content == proxy_image(IMAGES[there], {name: targets["[vdso]"] + offset for name, offset, _ in ours.symbols})


@DIFFERENT
def test_a_proxy_takes_nothing_that_the_task_has(there: str, here: str) -> None:
    found = plan(there, here)
    mapped = Ranges.of((op.args[0], op.args[0] + op.args[1]) for op in found.program if op.name == "mmap")
    theirs = Ranges.of(places(there, BASE).values())
    assert theirs.subtract(mapped) == Ranges()
    assert not theirs.intersect(found.reserved)
    assert not Ranges.of(places(here, HERE).values()).intersect(found.reserved)


@DIFFERENT
def test_what_a_proxy_overwrites_is_named_but_for_the_entries(there: str, here: str) -> None:
    found = plan(there, here)
    content = found.content[1][1]
    changed = [BASE + offset for offset, byte in enumerate(content) if byte != IMAGES[there][offset]]
    entries = {BASE + offset for _, offset, _ in parse_symbols(IMAGES[there])}
    assert all(found.overwritten.contains(address) for address in changed if address not in entries)
    assert not any(found.overwritten.contains(address) for address in entries)


def test_without_the_image_only_the_same_sizes_are_taken() -> None:
    assert moved(plan("6.1", "6.12", b"").program).keys() <= set(NAMES)
    with pytest.raises(RestoreError, match=r"vvar_vclock.*lack the pages"):
        plan("6.1", "own", b"")


def test_a_task_without_a_vdso_gets_none() -> None:
    ours = make_layout(places("own", HERE), IMAGES["own"])
    found = plan_vdso(vmas_of(places("own", HERE)), {}, b"", [], ours)
    assert [op.name for op in found.program] == ["munmap"] * 3


def test_a_damaged_image_is_an_image_error() -> None:
    with pytest.raises(ImageError):
        plan("6.1", "own", bytes(8192))
