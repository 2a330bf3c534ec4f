"""Registers: into CRIU's fields and back, with our raw area and without it."""

import random

import pytest

from core.errors import ImageError
from core.images import kinds
from core.images.inventory import make_inventory
from core.images.pb.core_pb2 import CoreEntry, ThreadCoreEntry
from core.images.pb.ids_pb2 import TaskKobjIdsEntry
from core.images.pb.inventory_pb2 import XsaveComponent
from core.images.store import ImageSet
from core.kernel.threads import ThreadState
from core.kernel.xsave import LEGACY_AND_HEADER, area_size, component_place, layout, xcr0
from core.resources import registers
from core.resources.registers import COMPONENTS, LEGACY, XSTATE_BV
from tests.unit.tracee.states import registers_with, state_with


def random_area(seed: int) -> bytes:
    """An xsave area of this CPU with every component that the image has fields for in use."""
    numbers = random.Random(seed)
    area = bytearray(area_size(xcr0()))
    area[: LEGACY.size] = numbers.randbytes(LEGACY.size)
    features = 3
    for component, (_, _, size) in COMPONENTS.items():
        if place := component_place(component):
            used = min(size, place[1])
            area[place[0] : place[0] + used] = numbers.randbytes(used)
            features |= 1 << component
    area[XSTATE_BV : XSTATE_BV + 8] = features.to_bytes(8, "little")
    return bytes(area)


def core_of(state: ThreadState, *, raw: bool) -> CoreEntry:
    core = CoreEntry(mtype=CoreEntry.X86_64, thread_info=registers.collect(state.registers, 0x1234))
    core.thread_core.CopyFrom(ThreadCoreEntry(futex_rla=0, futex_rla_len=0, xstate=state.xstate))
    registers.complete(core)
    if not raw:
        core.thread_core.ClearField("xstate")
    return core


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("raw", [True, False])
def test_registers_come_back_with_the_raw_area_and_from_the_fields_alone(seed: int, raw: bool) -> None:
    state = state_with(xstate=random_area(seed), orig_ax=-1)
    core = CoreEntry.FromString(core_of(state, raw=raw).SerializeToString())
    back = registers.thread_state(core, 7, 0xF0)
    assert back.registers == state.registers
    assert (back.tid, back.sigmask) == (7, 0xF0)
    assert core.thread_info.clear_tid_addr == 0x1234
    for start, end in [(0, LEGACY.size), (XSTATE_BV, XSTATE_BV + 8)]:
        assert back.xstate[start:end] == state.xstate[start:end]
    for component in COMPONENTS:
        if place := component_place(component):
            assert back.xstate[place[0] : sum(place)] == state.xstate[place[0] : sum(place)], component


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_image_has_the_words_that_criu_counts(component: int) -> None:
    """Whether this CPU has the component or not. Source: criu 3.17.1, which refuses any other number by name."""
    field, width, size = COMPONENTS[component]
    words = getattr(core_of(state_with(xstate=random_area(1)), raw=True).thread_info.fpregs.xsave, field)
    assert (len(words), width) == ({2: 64, 3: 8, 4: 8, 5: 8, 6: 64, 7: 128, 9: 2}[component], size // len(words))


@pytest.mark.parametrize(
    ("raw", "signals", "again"), [(False, [], True), (False, [10], True), (True, [], False), (False, [10, 12], False)]
)
def test_a_sleep_that_crius_stop_has_ended_is_made_again(raw: bool, signals: list[int], again: bool) -> None:
    """In images without our raw area, and where no signal is about to be taken: 10 is blocked, 12 is not."""
    core = core_of(state_with(xstate=random_area(1), orig_ax=35, ax=-4, ip=0x400002), raw=raw)
    for number in signals:
        core.thread_core.signals_p.signals.add(siginfo=number.to_bytes(128, "little"))
    back = registers.thread_state(core, 7, 1 << 9).registers
    assert (back.ax, back.ip) == ((35, 0x400000) if again else ((1 << 64) - 4, 0x400002))


def test_a_call_that_waits_is_made_again_by_the_image() -> None:
    state = state_with(orig_ax=0, ax=-512, ip=0x400002)
    gpregs = registers.collect(state.registers, 0).gpregs
    assert (gpregs.ax, gpregs.ip, gpregs.orig_ax) == (0, 0x400000, (1 << 64) - 1)


def test_an_area_of_another_size_is_fitted() -> None:
    size = area_size(xcr0())
    assert registers.fitted_xstate(b"\1" * 600, ()) == b"\1" * 600 + bytes(size - 600)
    assert len(registers.fitted_xstate(b"\1" * (size + 8192), layout())) == size


def test_components_of_another_processors_area_are_put_where_this_one_has_them() -> None:
    """As from AMD's, which has no room for MPX, and PKRU thus at another place."""
    ours = random_area(3)
    theirs, area = [], bytearray(ours[:LEGACY_AND_HEADER])
    for component, offset, size in reversed(layout()):
        theirs.append((component, len(area), size))
        area += ours[offset : offset + size]
    back = registers.fitted_xstate(bytes(area), tuple(theirs))
    assert back[:LEGACY_AND_HEADER] == ours[:LEGACY_AND_HEADER]
    for _, offset, size in layout():
        assert back[offset : offset + size] == ours[offset : offset + size]
    assert len(back) == len(ours)


@pytest.mark.parametrize("raw", [True, False])
def test_registers_in_use_that_this_processor_lacks_are_an_image_error(raw: bool) -> None:
    area = bytearray(random_area(1))
    area[XSTATE_BV + 7] |= 0x20  # component 61
    core = core_of(state_with(xstate=bytes(area)), raw=raw)
    with pytest.raises(ImageError, match="component 61, which this processor lacks"):
        registers.thread_state(core, 7, 0)


@pytest.mark.parametrize("numbers", [[2, 2], [1], [63]])
def test_a_layout_of_what_is_no_component_is_an_image_error(numbers: list[int]) -> None:
    images, inventory = ImageSet(), make_inventory(TaskKobjIdsEntry(vm_id=0, files_id=0, fs_id=0, sighand_id=0))
    inventory.xsave_layout.extend(XsaveComponent(number=number, offset=576, size=256) for number in numbers)
    images.add(kinds.INVENTORY, inventory)
    with pytest.raises(ImageError, match="component"):
        registers.layout_of(images)


def test_registers_that_the_layout_does_not_place_are_an_image_error() -> None:
    core = core_of(state_with(xstate=random_area(1)), raw=True)
    with pytest.raises(ImageError, match="does not say where"):
        registers.thread_state(core, 7, 0, ((62, 4096, 8),))


def test_an_area_without_its_header_is_an_image_error() -> None:
    core = core_of(state_with(xstate=random_area(1)), raw=True)
    core.thread_core.xstate = core.thread_core.xstate[:575]
    with pytest.raises(ImageError, match="575 bytes"):
        registers.thread_state(core, 7, 0)


def test_numbers_that_do_not_fit_are_an_image_error() -> None:
    core = core_of(state_with(), raw=False)
    del core.thread_info.fpregs.st_space[4:]
    with pytest.raises(ImageError, match="floating-point"):
        registers.thread_state(core, 7, 0)


def test_a_32_bit_task_is_an_image_error() -> None:
    core = core_of(state_with(), raw=True)
    core.thread_info.gpregs.mode = 2
    with pytest.raises(ImageError, match="32-bit"):
        registers.thread_state(core, 7, 0)


def test_every_register_has_its_own_field() -> None:
    gpregs = registers.collect(registers_with(orig_ax=-1), 0).gpregs
    expected = registers_with(orig_ax=-1)
    assert {name: getattr(gpregs, name) for name in ("r15", "bp", "fs_base", "gs")} == {
        name: getattr(expected, name) for name in ("r15", "bp", "fs_base", "gs")
    }
