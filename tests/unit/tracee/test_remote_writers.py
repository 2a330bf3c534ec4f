"""Waiting for process_vm_writev(2): for calls into the tree alone, until each has ended, and not longer than that."""

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.errors import CollectError, KernelLacks, TraceeError
from core.kernel import btf, remote_writes
from core.kernel.remote_writes import READ, RemoteWrite, RemoteWrites, open_remote_writes
from core.tracee.remote_writers import RemoteWriters
from tests.requires import require_root

OWN, HERE = 100, os.getpid()


def write(tid: int, target: int, *, pid: int = 0, local: int = 1) -> RemoteWrite:
    return RemoteWrite(tid, pid or tid, target, local, 2, 3)


@dataclass
class FakeWrites:
    """Answers one after the other, the last one for good."""

    answers: list[list[RemoteWrite]]
    asked: int = 0
    error: OSError | None = None

    def in_flight(self) -> list[RemoteWrite]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass
class FakeStatus:
    tgid: int
    ns_pid: tuple[int, ...]


@dataclass
class FakeReader:
    """Threads' processes by tid, and who is in another PID namespace."""

    tgids: dict[int, int] = field(default_factory=lambda: {OWN: OWN, OWN + 1: OWN, 200: 200})
    far: frozenset[int] = frozenset()
    inside: dict[int, int] = field(default_factory=dict)  # what threads are called in a namespace of their own

    def namespace(self, pid: int, name: str) -> int:
        return 2 if pid in self.far else 1

    def tids(self, pid: int) -> list[int]:
        return [tid for tid, tgid in self.tgids.items() if tgid == pid]

    def status(self, pid: int, tid: int | None = None) -> FakeStatus:
        if pid not in self.tgids:
            raise FileNotFoundError
        own = self.inside.get(tid or pid, 1)
        return FakeStatus(self.tgids[pid], (tid or pid, own) if self.inside else (tid or pid,))


def writers(*answers: Iterable[RemoteWrite], far: frozenset[int] = frozenset()) -> RemoteWriters:
    fake = FakeWrites([list(one) for one in answers])
    return RemoteWriters(FakeReader(far=far), _writes=fake)  # type: ignore[arg-type]


def asked(found: RemoteWriters) -> int:
    fake = found._writes
    assert isinstance(fake, FakeWrites)
    return fake.asked


def test_a_call_is_waited_for_until_it_has_ended() -> None:
    found = writers([write(7, OWN)], [write(7, OWN)], [])
    assert found.settle({OWN})
    assert asked(found) == 3


def test_a_call_that_follows_is_none_that_was_in_flight() -> None:
    found = writers([write(7, OWN)], [write(7, OWN, local=9), write(8, OWN)])
    assert found.settle({OWN})
    assert asked(found) == 2


def test_a_call_that_does_not_end_is_told() -> None:
    found = writers([write(7, OWN, pid=6)])
    assert not found.settle({OWN}, limit_s=0)
    with pytest.raises(TraceeError, match=f"pid 1: process 6 is writing into pid {OWN} "):
        found.refuse(1, {OWN})


@pytest.mark.parametrize("target", [200, 300])
def test_a_call_into_another_process_or_into_none_is_none_of_ours(target: int) -> None:
    found = writers([write(7, target)])
    assert found.settle({OWN})
    assert asked(found) == 1


def test_a_call_by_the_number_of_a_thread_counts() -> None:
    assert not writers([write(7, OWN + 1)]).settle({OWN}, limit_s=0)


def test_numbers_of_another_namespace_are_those_of_whom_it_has() -> None:
    far = frozenset({7})
    assert writers([write(7, 300)], far=far).settle(
        {OWN}, limit_s=0
    )  # the tree is in our namespace, which it cannot see
    inside = writers([write(7, 3)], far=far)
    reader = inside.reader
    assert isinstance(reader, FakeReader)
    reader.inside[OWN + 1] = 3
    assert not inside.settle({OWN}, limit_s=0)
    with pytest.raises(TraceeError, match="is writing into pid 3 of its PID namespace "):
        inside.refuse(1, {OWN})


def test_one_that_cannot_be_asked_says_why() -> None:
    found = writers([])
    fake = found._writes
    assert isinstance(fake, FakeWrites)
    fake.error = OSError(errno.EMFILE, "Too many open files")
    with pytest.raises(CollectError, match="calls of process_vm_writev: cannot be looked for: Too many open files"):
        found.settle({OWN})


def test_calls_of_the_tree_are_left_out_where_it_is_to_be_stopped() -> None:
    assert writers([write(7, OWN, pid=OWN)]).settle({OWN}, limit_s=0, strange=True)
    assert not writers([write(7, OWN, pid=200)]).settle({OWN}, limit_s=0, strange=True)


def test_who_reads_is_seen_reading() -> None:
    require_root()
    with open_remote_writes():
        pass
    with remote_writes.ExitStack() as stack:
        seen = RemoteWrites(stack, READ).in_flight()
    assert HERE in [one.pid for one in seen]
    assert all(one.target < 1 << 20 for one in seen if one.pid == HERE)  # a descriptor


@pytest.fixture
def _without_btf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(btf, "PATH", tmp_path / "vmlinux")
    for known in (remote_writes._layout, remote_writes._probe):
        known.cache_clear()
    yield
    for known in (remote_writes._layout, remote_writes._probe):
        known.cache_clear()


@pytest.mark.usefixtures("_without_btf")
def test_where_calls_cannot_be_seen_it_is_said_and_nobody_waits() -> None:
    found = RemoteWriters()
    found.open()
    assert "BTF" in found.notice
    assert "may be old in the copy" in found.notice
    assert found.settle({OWN})
    with pytest.raises(KernelLacks), open_remote_writes():
        pass


def test_a_function_is_found_by_its_name_alone() -> None:
    """An int, a function's prototype, and functions of which one has a name that a struct has too."""
    names = b"\0int\0one\0two\0"
    one, two = names.index(b"one"), names.index(b"two")
    types = btf.TYPE.pack(1, 1 << 24, 4) + bytes(4)
    types += btf.TYPE.pack(one, 4 << 24, 0) + btf.TYPE.pack(0, 13 << 24, 0)
    types += btf.TYPE.pack(one, 12 << 24, 3) + btf.TYPE.pack(two, 12 << 24, 3)
    header = btf.HEADER.pack(btf.MAGIC, 1, 0, btf.HEADER.size, 0, len(types), len(types), len(names))
    offsets, functions = btf.parse_layout(header + types + names, {"one": ()}, ("one", "two"))
    assert (offsets, functions) == ({"one": {}}, {"one": 4, "two": 5})
    with pytest.raises(LookupError):
        btf.parse_layout(header + types + names, {}, ("int",))
    with pytest.raises((LookupError, ValueError, struct.error)):
        btf.parse_layout(header + types[:3] + names, {}, ("two",))
