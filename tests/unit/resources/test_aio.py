"""Contexts of asynchronous I/O as images: rings are read whole, what does not fit together is an ImageError."""

import struct
from collections.abc import Callable

import pytest

from core.errors import ImageError
from core.images import kinds
from core.images.flags import VmaStatus
from core.images.pb.memory_pb2 import AioRingEntry, MmEntry, VmaEntry
from core.images.store import ImageSet
from core.plan.encode import assemble
from core.plan.ops import FdAllocator
from core.proc.maps import AIO_RING, Vma
from core.resources import aio
from core.resources.address_space import bare_mm

PLACE, LENGTH, ROOM = 0x7F0000000000, 4096, 127


def ring_of(head: int, tail: int, **changed: int) -> bytes:
    words = {
        "id": 0,
        "nr": ROOM,
        "head": head,
        "tail": tail,
        "magic": 0xA10A10A1,
        "compatible": 1,
        "other": 0,
        "size": 32,
    }
    events = b"".join(struct.pack("<4q", number, 0, 0, 0) for number in range(ROOM))
    return struct.pack("<8I", *(words | changed).values()) + events


def read(head: int, tail: int) -> AioRingEntry:
    entry = AioRingEntry(id=PLACE, nr_req=1, ring_len=LENGTH)
    aio.read_ring(entry, ring_of(head, tail))
    return entry


def mm_of(entry: AioRingEntry) -> MmEntry:
    status = VmaStatus.REGULAR | VmaStatus.AIORING
    mm = bare_mm([VmaEntry(start=PLACE, end=PLACE + LENGTH, pgoff=0, shmid=0, prot=3, flags=1, status=status, fd=-1)])
    mm.aios.append(entry)
    return mm


@pytest.mark.parametrize(
    ("head", "tail", "unread"),
    [(0, 0, []), (5, 5, []), (0, 3, [0, 1, 2]), (125, 2, [125, 126, 0, 1]), (126, 0, [126]), (ROOM, 1, [0])],
)
def test_unread_events_are_those_from_head_to_tail(head: int, tail: int, unread: list[int]) -> None:
    entry = read(head, tail)
    assert [struct.unpack_from("<q", entry.unread, start)[0] for start in range(0, len(entry.unread), 32)] == unread
    assert (entry.head, entry.tail) == (head % ROOM, tail)


@pytest.mark.parametrize("changed", [{"magic": 1}, {"nr": 126}, {"compatible": 2}, {"other": 1}, {"size": 64}])
def test_what_is_no_ring_is_told(changed: dict[str, int]) -> None:
    entry = AioRingEntry(id=PLACE, nr_req=1, ring_len=LENGTH)
    with pytest.raises(ValueError, match="unknown kind"):
        aio.read_ring(entry, ring_of(0, 0, **changed))
    images = ImageSet()
    images.add(kinds.MM, mm_of(entry), 7)
    for content in (ring_of(0, 0, **changed), b"", None):
        with pytest.raises(ImageError, match=r"mm-7\.img"):
            aio.complete(images, lambda *_, content=content: content)


def test_what_criu_has_no_field_for_is_read_from_the_pages() -> None:
    images = ImageSet()
    images.add(kinds.MM, mm_of(AioRingEntry(id=PLACE, nr_req=62, ring_len=LENGTH)), 7)
    asked = []
    aio.complete(images, lambda *place: asked.append(place) or ring_of(125, 2))
    assert asked == [(7, PLACE, PLACE + LENGTH)]
    aio.check(images.one(kinds.MM, 7))
    assert images.one(kinds.MM, 7).aios[0].unread == read(125, 2).unread


def set_to(**fields: int | bytes) -> Callable[[MmEntry], None]:
    def damage(mm: MmEntry) -> None:
        for field, value in fields.items():
            setattr(mm.aios[0], field, value)

    return damage


DAMAGES: dict[str, Callable[[MmEntry], object]] = {
    "elsewhere": set_to(id=PLACE + 4096),
    "longer": set_to(ring_len=8192),
    "empty": set_to(ring_len=0),
    "for nobody": set_to(nr_req=0),
    "for too many": set_to(nr_req=63),
    "head beyond": set_to(head=ROOM),
    "tail beyond": set_to(tail=ROOM + 1),
    "events missing": set_to(unread=b"\0" * 32),
    "half an event": set_to(unread=b"\0" * 95),
    "twice": lambda mm: mm.aios.append(mm.aios[0]),
    "without an area": lambda mm: mm.vmas.pop(),
    "an area without": lambda mm: mm.aios.pop(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_numbers_that_do_not_fit_together_are_an_image_error(damage: str) -> None:
    mm = mm_of(read(124, 1))
    aio.check(mm)
    DAMAGES[damage](mm)
    with pytest.raises(ImageError, match=r"mm\.img"):
        aio.plan(mm, 1, FdAllocator())


@pytest.mark.parametrize(("head", "tail"), [(0, 0), (0, 120), (100, 110), (120, 20), (126, 125)])
def test_the_kernels_tail_goes_as_far_as_the_old_one_was(head: int, tail: int) -> None:
    """As many requests are sent as bring it there, the last time round; all but the unread ones are read again."""
    fds = FdAllocator()
    program = aio.plan(mm_of(read(head, tail)), 1, fds)
    sent = sum(op.args[1] for op in program if op.name == "io_submit" if isinstance(op.args[1], int))
    taken = sum(op.args[1] for op in program if op.name == "io_getevents" if isinstance(op.args[1], int))
    assert (taken, sent % ROOM) == (head, tail)
    assert sent - taken == (tail - head) % ROOM
    assert assemble(program).op_count == len(program)
    assert fds.take() == 0
    assert [op.name for op in program if op.name in ("io_setup", "mremap")] == ["io_setup", "mremap"]


def test_without_contexts_there_is_nothing_to_do() -> None:
    assert aio.plan(bare_mm([]), 1, FdAllocator()) == ()


def test_a_process_that_has_ended_meanwhile_waits_for_nothing() -> None:
    nobody = 1 << 30
    assert aio.refuse_waiting(nobody) == []
    ring = Vma(PLACE, PLACE + LENGTH, True, True, False, True, path=AIO_RING)
    assert aio.count_requests(nobody, [ring, ring]) == 2
    assert aio.count_requests(nobody, []) == 0
