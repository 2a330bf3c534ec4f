"""What was made of a process while it ran is in its images only where it is the same still."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.collect_memory import ForeseenSpaces
from core.collect_threads import questions
from core.errors import Refused
from core.foreseen import Foreseen
from core.images import kinds
from core.images.pb.core_pb2 import CoreEntry
from core.images.pb.filesystem_pb2 import FsEntry
from core.images.pb.memory_pb2 import MmEntry
from core.images.store import ImageSet
from core.live.source import LiveSource
from core.memory.ranges import Ranges
from core.options import DumpOptions
from core.plan.chosen_options import answers_of_new
from core.resources.named_files import paths_by_id
from core.tracee.family import release
from tests.requires import require_root
from tests.roundtrip.targets import LEAF_NAME, attached, home_cgroup, ready
from tests.told_what_to_do import Told

MAKES = """
import ctypes, mmap, os, resource, signal, struct, sys
folder, turn = sys.argv[1], 0
os.chdir(folder)
libc = ctypes.CDLL(None, use_errno=True)
def prctl(*arguments):
    if libc.prctl(*map(ctypes.c_ulong, arguments)) < 0:
        raise OSError(ctypes.get_errno(), str(arguments))
def write(name, content):
    with open(name, "w") as file:
        file.write(content)
def of_file(name, flags):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(fd, 8192)
    try:
        return mmap.mmap(fd, 8192, flags=flags)
    finally:
        os.close(fd)
def set_marks(start=0, end=0, auxv=b""):
    with open("/proc/self/stat") as stat:
        words = [0, 0] + stat.read().rpartition(")")[2].split()
    with open("/proc/self/auxv", "rb") as file:
        known = ctypes.create_string_buffer(file.read() if not auxv else auxv)
    libc.sbrk.restype = ctypes.c_void_p
    of = lambda *places: [int(words[place]) for place in places]
    marks = [*of(25, 26, 44, 45, 46), libc.sbrk(0), *of(27), start or of(47)[0], *of(48, 49), of(50)[0] - end]
    packed = struct.pack("<12QII", *marks, ctypes.addressof(known), len(known) - 1, 0xFFFFFFFF)
    packed = ctypes.create_string_buffer(packed)
    prctl(35, 14, ctypes.addressof(packed), 104, 0)
room = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(room))
kept = []
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
while True:
    open(f"{folder}/done-{turn}", "w").close()
    turn += 1
    signal.sigwait([signal.SIGUSR1])
    exec(open(f"{folder}/do").read())
"""
CHANGES = (
    "pass",
    "kept.append(mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))",
    "kept.pop()",
    "libc.mprotect(ctypes.c_void_p(address + 4096), 4096, 1)",
    "libc.madvise(ctypes.c_void_p(address + 16384), 4096, 10)",
    "libc.madvise(ctypes.c_void_p(address), 4096, 16)",
    "libc.sbrk(ctypes.c_long(1 << 16))",
    "libc.mlock(ctypes.c_void_p(address + 32768), 4096)",
    "libc.mlockall(2)",
    "libc.munlockall()",
    "kept.append(of_file('named', mmap.MAP_SHARED))",
    "kept.append(of_file('private', mmap.MAP_PRIVATE))",
    "os.rename('private', 'renamed')",
    "os.unlink('named')",
    "kept.append(mmap.mmap(-1, 1 << 16))",
    "kept.clear()",
    "set_marks(start=address)",
    "set_marks(end=5)",
    "set_marks(auxv=struct.pack('<4Q', 6, 4096, 0, 0))",
    "prctl(4, 0, 0, 0, 0)",  # PR_SET_DUMPABLE
    "prctl(41, 1, 0, 0, 0)",  # PR_SET_THP_DISABLE
    "prctl(36, 1, 0, 0, 0)",  # PR_SET_CHILD_SUBREAPER
    "write('/proc/self/coredump_filter', '0x7')",
    "write('/proc/self/oom_score_adj', '321')",
    "write('/proc/self/comm', 'another')",
    "resource.setrlimit(resource.RLIMIT_CORE, (1, 2))",
    "libc.personality(0x40000)",
    "signal.signal(signal.SIGUSR2, signal.SIG_IGN)",
    "signal.setitimer(signal.ITIMER_VIRTUAL, 1000, 500)",
    "os.umask(0o31)",
    "os.mkdir('sub'); os.chdir('sub')",
    "os.rmdir(os.getcwd())",
    "os.chdir('/')",
    "os.setpgid(0, 0)",
    "os.fork() or (prctl(1, 9, 0, 0, 0), signal.pause())",
)  # fmt: skip


@contextmanager
def a_target(folder: Path) -> Iterator[Told]:
    require_root()
    null, command = subprocess.DEVNULL, [sys.executable, "-I", "-S", "-c", MAKES, str(folder)]
    with subprocess.Popen(command, stdin=null, stdout=null) as process:
        try:
            yield Told(process, folder)
        finally:
            process.kill()


def plain(images: ImageSet) -> dict[str, str]:
    """What the images say of processes as such, by file; files are told by their paths, deleted ones counted."""
    paths = paths_by_id(images)
    said = {}
    for kind, id, records in images:
        said[kind.file_name(id)] = str(len(records) if kind is kinds.REMAP_FPATH else 0)  # numbers differ
        for record in records:
            one = type(record.message).FromString(record.message.SerializeToString())
            if isinstance(one, MmEntry):
                named = [f"{vma.start:x} {paths.get(vma.shmid, vma.shmid)}" for vma in one.vmas if vma.shmid]
                said[kind.file_name(id)] = f"{paths[one.exe_file_id]} {named} {without_numbers(one)}"
            elif isinstance(one, FsEntry):
                said[kind.file_name(id)] = f"{paths[one.cwd_id]} {paths[one.root_id]} {one.umask}"
            elif isinstance(one, CoreEntry):
                one.tc.timers.real.Clear()  # its time goes on
                one.thread_core.ClearField("xstate")  # and so it computes
                one.thread_info.ClearField("fpregs")
                one.thread_info.ClearField("gpregs")
                said[kind.file_name(id)] = str(one)
            elif kind in (kinds.IDS, kinds.PSTREE):
                said[kind.file_name(id)] += str(one)
    return said


def without_numbers(one: MmEntry) -> MmEntry:
    one.exe_file_id = 0
    for vma in one.vmas:
        vma.shmid = 0
    return one


def froze_both_ways(source: LiveSource, monkeypatch: pytest.MonkeyPatch) -> tuple[ImageSet, ImageSet]:
    """With what was foreseen, and, of the same stop, without; then it runs on."""
    froze = source.freeze()
    frozen = {pid: one.frozen for pid, one in source.everybody.items() if one.frozen is not None}
    try:
        with monkeypatch.context() as patched:
            patched.setattr(source, "_foreseen", Foreseen())
            for process in source.processes.values():
                patched.setattr(process, "_entries", ())
            return froze.images, source._collect(source._family, frozen)
    finally:
        source._let_go()
        release(frozen)


def test_whatever_changes_after_the_last_look_is_in_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    take = ForeseenSpaces.take

    def counted(*arguments: Any) -> MmEntry | None:
        taken.append(take(*arguments))
        return taken[-1]

    monkeypatch.setattr(ForeseenSpaces, "take", counted)
    with a_target(tmp_path) as target, attached(target.process.pid, DumpOptions(hold="cgroup")) as source:
        said, unseen = {}, []
        for change in CHANGES:
            source.scan()
            target.do(change)
            taken.clear()
            foreseen, anew = froze_both_ways(source, monkeypatch)
            assert plain(foreseen) == plain(anew), change
            assert (taken and taken[0] is not None) or change != "pass"
            if plain(foreseen) == said and change != "pass":
                unseen.append(change)
            said = plain(foreseen)
        assert unseen == []


@pytest.mark.parametrize(("flag", "what"), [(0x400, "descriptor table"), (0x200, "working directory and umask")])
def test_a_thread_that_parts_from_the_others_after_the_last_look_is_refused(
    flag: int, what: str, tmp_path: Path
) -> None:
    part = f"import threading; parted = threading.Event(); run = lambda: (libc.unshare({flag}), parted.set(), pause())"
    start = "threading.Thread(target=run, daemon=True).start(); parted.wait()"
    with a_target(tmp_path) as target, attached(target.process.pid, DumpOptions(hold="cgroup")) as source:
        source.scan()
        target.do(f"pause = signal.pause; {part}; {start}")
        with pytest.raises(Refused, match=f"thread [0-9]+ has a {what} of its own"):
            source.freeze()
        target.do("pass")  # it runs on


def test_a_memfd_that_was_open_for_writing_between_two_looks_alone_is_compared(tmp_path: Path) -> None:
    make = "m = os.memfd_create('m'); os.ftruncate(m, 16384); os.write(m, b'x' * 8192); way = '/proc/self/fd/%d'"
    map = (
        "libc.mmap.restype = ctypes.c_void_p; place = libc.mmap(None, ctypes.c_long(16384), 3, 1, m, ctypes.c_long(0))"
    )
    with a_target(tmp_path) as target, attached(target.process.pid, DumpOptions(hold="cgroup")) as source:
        target.do(f"{make}; {map}; r = os.open(way % m, os.O_RDONLY); os.close(m)")
        for change in ("pass", "pass", "ctypes.memset(place + 8192, 1, 1)"):  # in a hole: this explains new times
            target.do(change)
            source.scan()
            (file,) = source.shared
            assert not file.doubt or change == "pass"
            list(file.read(file.pending))
            file.was_sent()
        target.do("w = os.open(way % r, os.O_RDWR); os.pwrite(w, b'new', 4096); os.close(w)")
        source.freeze()
        assert file.pending == Ranges(((4096, 8192),))


def test_what_every_freeze_needs_is_made_before_it(tmp_path: Path) -> None:
    require_root()
    with ready("listen_tcp4.c", tmp_path) as run, home_cgroup(run.pid):
        for known in (questions, answers_of_new):
            known.cache_clear()
        source = LiveSource(run.pid, LEAF_NAME, DumpOptions())
        try:
            source.attach()
            source.scan()
            made = [known.cache_info().misses for known in (questions, answers_of_new)]
            source.freeze()
            assert min(made) > 0 and [known.cache_info().misses for known in (questions, answers_of_new)] == made
        finally:
            source.thaw()
            source.close()
        run.release()
        assert run.result() == "PASS"
