import errno
import subprocess
import sys
from dataclasses import dataclass
from typing import cast

import pytest

from core.images.flags import VmaStatus
from core.images.pb.memory_pb2 import MmEntry, VmaEntry
from core.memory.ranges import EMPTY, Ranges
from core.plan.ops import Syscall
from core.proc.maps import Vma, parse_smaps
from core.proc.reader import ProcReader
from core.resources import vma_marks, vmas
from core.resources.vma_marks import MarkQuestions
from core.tracee.borrow import Results
from tests.unit.memory.area import vma_of

PAGE = 4096
SMAPS = """1000-3000 rw-p 00000000 00:00 0 [anon:glyphs]
Rss: 4 kB
VmFlags: rd wr mr mw me dc lo lf dd
ProtectionKey: 3
5000-6000 rw-p 00000000 00:00 0
ProtectionKey: 0
VmFlags: rd wr mr mw me nl
"""


def entry_of(start: int, end: int, **marks: object) -> VmaEntry:
    entry = VmaEntry(start=start, end=end, pgoff=0, shmid=0, prot=3, flags=0x22, status=0x201, fd=-1)
    for name, value in marks.items():
        setattr(entry, name, value)
    return entry


def calls(program: tuple[Syscall, ...]) -> list[tuple[object, ...]]:
    return [(op.name, *op.args) for op in program]


def test_smaps_become_marks_of_an_entry() -> None:
    one, _ = parse_smaps(SMAPS)
    entry = vmas.collect(one.vma, one.flags, {})
    vma_marks.collect(entry, one.vma, one.flags)
    assert entry.madv == 1 << 10 | 1 << 16
    assert entry.flags & vma_marks.MAP_LOCKED and entry.locked_on_fault
    assert (entry.protection_key, entry.name) == (3, "glyphs")


def test_a_non_linear_mapping_is_refused_with_a_hint() -> None:
    found = {one.vma: vmas.refuse(one.vma, one.flags) for one in parse_smaps(SMAPS)}
    assert [blocker.reason for blocker in found.values() if blocker] == ["is a non-linear mapping"]


@pytest.mark.parametrize("flag", vmas.REFUSED_FLAGS)
def test_every_flag_of_memory_that_cannot_go_is_refused_with_a_hint(flag: str) -> None:
    blocker = vmas.refuse(vma_of(PAGE, 2 * PAGE), frozenset({"rd", flag}))
    assert blocker is not None and blocker.hint
    assert vmas.refuse(vma_of(PAGE, 2 * PAGE), frozenset({"rd"})) is None


HOLDERS = {
    "secret memory": "fd = libc.syscall(447, 0); assert fd >= 0; os.ftruncate(fd, 4096); m = mmap.mmap(fd, 4096)",
    "io_uring": "fd = libc.syscall(425, 4, ctypes.create_string_buffer(120)); assert fd >= 0; m = mmap.mmap(fd, 4096)",
}


@pytest.mark.parametrize("what", HOLDERS)
def test_memory_of_the_kernels_own_kinds_is_refused_by_name(what: str) -> None:
    code = f"import ctypes, mmap, os; libc = ctypes.CDLL(None); {HOLDERS[what]}; print('there', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout and child.stdin
        if child.stdout.readline() != "there\n":
            pytest.skip(f"missing: {what} of this kernel")
        smaps = ProcReader().smaps(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
    found = [blocker for one in smaps if (blocker := vmas.refuse(one.vma, one.flags))]
    assert found and all(what in blocker.reason and blocker.hint for blocker in found)


@dataclass(frozen=True, slots=True)
class Said:
    """Stands for Results."""

    values: dict[Syscall, int]
    in_core: int

    def value(self, op: Syscall) -> int:
        return self.values.get(op, 0)

    def out(self, op: Syscall, argument: int) -> bytes:
        assert argument == 2
        return bytes([self.in_core])


def results_of(values: dict[Syscall, int], in_core: int) -> Results:
    return cast(Results, Said(values, in_core))


@pytest.mark.parametrize(("locked", "in_core", "expected"), [(0, 0, 0), (-errno.EBUSY, 1, 2), (-errno.EBUSY, 0, 6)])
def test_what_mlockall_says_of_the_future_is_seen_by_a_mapping(locked: int, in_core: int, expected: int) -> None:
    questions, mm = MarkQuestions(), MmEntry()
    vma_marks.collect_mm(questions, results_of({questions.locked: locked}, in_core), EMPTY, mm)
    assert mm.lock_future == expected


def test_protection_keys_are_allocated_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vma_marks, "probe_protection_keys", lambda: True)
    questions, mm = MarkQuestions(), MmEntry()
    taken = {op: -errno.ENOMEM if key in (2, 3) else -errno.EINVAL for key, op in questions.keys.items()}
    vma_marks.collect_mm(questions, results_of(taken, 0), EMPTY, mm)
    assert mm.protection_keys == 1 << 2 | 1 << 3
    mm.vmas.extend([entry_of(PAGE, 2 * PAGE, protection_key=3), entry_of(4 * PAGE, 5 * PAGE, protection_key=1)])
    assert calls(vma_marks.plan(mm)) == [
        ("pkey_alloc", 0, 0), ("pkey_alloc", 0, 0), ("pkey_alloc", 0, 0), ("pkey_free", 1),
        ("pkey_mprotect", PAGE, PAGE, 3, 3),
    ]  # fmt: skip


def test_neighbours_share_a_call_and_guards_are_no_mappings() -> None:
    questions, mm = MarkQuestions(), MmEntry()
    locked = {"flags": 0x22 | vma_marks.MAP_LOCKED}
    mm.vmas.extend([entry_of(0, PAGE, madv=1 << 16, **locked), entry_of(PAGE, 3 * PAGE, madv=1 << 16, **locked)])
    mm.vmas.extend([entry_of(8 * PAGE, 9 * PAGE, name="glyphs", **locked)])
    mm.vmas[2].prot = 0
    guards = Ranges.of([(5 * PAGE, 6 * PAGE)])
    vma_marks.collect_mm(questions, results_of({}, 0), guards, mm)
    assert mm.vmas[3].status == VmaStatus.GUARD and vmas.is_kernel_vma(mm.vmas[3])
    program = vma_marks.plan(mm)
    assert calls(program) == [
        ("madvise", 0, 3 * PAGE, 16), ("madvise", 5 * PAGE, PAGE, 102), ("mlock2", 8 * PAGE, PAGE, 0),
        ("mlock2", 0, 3 * PAGE, 0), ("prctl", 0x53564D41, 0, 8 * PAGE, PAGE, b"glyphs\0"),
    ]  # fmt: skip
    assert [op.may_fail for op in program] == [False, False, True, False, True]


def test_a_private_mapping_of_dev_zero_is_no_shared_memory() -> None:
    own = Vma(PAGE, 2 * PAGE, True, True, False, False, 0, (0, 5), 7, "/dev/zero")
    assert vmas.refuse(own, frozenset()) is None
