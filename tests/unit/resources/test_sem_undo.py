"""Adjustments of semaphores in images: what makes no sense is refused; no value is taken out of its range."""

import struct

import pytest

from core.errors import ImageError
from core.images import kinds
from core.images.pb.namespaces_pb2 import IpcDescEntry, IpcSemEntry, SemUndoEntry
from core.images.store import ImageSet
from core.plan.segments import HOST_IPC
from core.resources import sem_undo

PID, SET = 7, 4
SEM_UNDO = 0o10000
LARGEST = 32767


def images_of(value: int, *undos: SemUndoEntry) -> ImageSet:
    desc = IpcDescEntry(key=0, uid=0, gid=0, cuid=0, cgid=0, mode=0o600, id=SET)
    images = ImageSet()
    entry = IpcSemEntry(desc=desc, nsems=2, undos=undos)
    images.add(kinds.IPCNS_SEM, entry, HOST_IPC, struct.pack("<4H", 0, value, 0, 0))
    return images


def undo(pid: int = PID, num: int = 1, adjustment: int = 1) -> SemUndoEntry:
    return SemUndoEntry(pid=pid, num=num, adjustment=adjustment)


@pytest.mark.parametrize("value", [0, 1, 16383, 16384, 16385, 32766, LARGEST])
@pytest.mark.parametrize("adjustment", [1, -1, 16383, 16384, -16384, 20000, -20000, LARGEST, -LARGEST, -32768])
def test_the_kernel_s_rules_are_kept(value: int, adjustment: int) -> None:
    adjusted = 0
    for op in sem_undo.plan_all(images_of(value, undo(adjustment=adjustment)), [PID])[PID]:
        id, operations, count = op.args
        assert (op.name, id, count) == ("semop", SET, 2) and isinstance(operations, bytes)
        now = value
        for number, change, flags in struct.iter_unpack("<Hhh", operations):
            now += change
            adjusted -= change if flags & SEM_UNDO else 0
            assert number == 1 and 0 <= now <= LARGEST and -32768 <= adjusted <= LARGEST
        assert now == value
    assert adjusted == adjustment


@pytest.mark.parametrize(
    "undos",
    [[undo(pid=8)], [undo(num=2)], [undo(adjustment=0)], [undo(adjustment=32768)], [undo(), undo(adjustment=2)]],
    ids=["nobody's", "no semaphore", "none", "too large", "twice"],
)
def test_what_makes_no_sense_is_refused(undos: list[SemUndoEntry]) -> None:
    with pytest.raises(ImageError, match="adjustment of semaphore"):
        sem_undo.plan_all(images_of(5, *undos), [PID])
