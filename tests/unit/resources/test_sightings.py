"""What was made of descriptors before the freeze is never stale: whatever a task changes since is seen in the freeze.

Each is compared with what is collected by asking every descriptor anew, as for kinds of which no record tells all.
"""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import MigrateError
from core.ids.shared import SharedIds
from core.images import kinds
from core.images.pb.files_pb2 import FileEntry
from core.images.store import ImageSet
from core.kernel.calls import pidfd_open
from core.options import DumpOptions, FileChoices
from core.plan.file_names import MEMBERS
from core.proc.reader import ProcReader
from core.resources import foresight, unix_socket
from core.resources import sightings as sightings_module
from core.resources.foresight import foresee
from core.resources.ghost_file import Ghosts
from core.resources.shared_memory import Segments
from core.resources.sightings import Seen, Sightings
from core.resources.table_collect import TaskTable, UnsureTimer, collect_tables, settle_timers
from tests.requires import require_root
from tests.told_what_to_do import Told

READER, OPTIONS = ProcReader(), DumpOptions(files=FileChoices(file_locks=True, link_remap=True))
MAKES = """
import ctypes, fcntl, os, select, signal, socket, struct, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
libc = ctypes.CDLL(None)
def opened(name, flags=os.O_RDWR | os.O_CREAT):
    return os.open(name, flags)
os.chdir(sys.argv[1])
a = opened("a"); os.write(a, b"0123456789"); a2 = opened("a"); b = opened("b"); twin = os.dup(a)
out, into = os.pipe(); out2, into2 = os.pipe()
count = os.eventfd(0); same = os.eventfd(0); third = os.dup(same)
timer = libc.timerfd_create(1, 0)
one, other = socket.socketpair(); packets, packets2 = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0))
udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
alike = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]; pairs = socket.socketpair()
filter = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
alike6 = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(3)]
memory = os.memfd_create("same"); memory2 = os.memfd_create("same")
os.mkdir("v1"); deep = opened("v1/log"); named = opened("n"); os.link("n", "n2")
folder = os.open(".", os.O_RDONLY); null = os.open("/dev/null", os.O_RDWR)
turn = 0
while True:
    os.mkdir(f"done-{turn}"); turn += 1
    signal.sigwait([signal.SIGUSR1])
    with open("do") as told:
        line = told.read()
    exec(line)
"""
CHANGES = (
    "pass",
    "os.lseek(a, 3, 0)",
    "os.lseek(a2, 10, 0)",  # where `a` is: they look alike then
    "os.write(a, b'more')",
    "os.ftruncate(b, 4096)",
    "os.fchmod(b, 0o600)",
    "os.dup2(b, a)",
    "os.dup2(a2, twin); os.lseek(a2, 10, 0)",
    "os.dup2(a, a2)",
    "os.close(twin)",
    "os.dup(count)",
    "os.eventfd(0)",
    "os.dup2(count, same)",  # `third` is alone then
    "os.dup2(same, count)",
    "os.dup2(os.eventfd(0), third)",
    "os.dup2(count, third); os.dup2(same, count); os.dup2(third, same)",
    "os.eventfd_write(same, 7)",
    "os.dup2(os.eventfd(0, os.EFD_SEMAPHORE), count)",
    "os.set_blocking(count, False)",
    "os.set_inheritable(a, True)",
    "fcntl.fcntl(a, fcntl.F_SETOWN, os.getpid())",
    "fcntl.fcntl(one, fcntl.F_SETOWN, os.getpid())",
    "fcntl.flock(a, fcntl.LOCK_EX)",
    "fcntl.lockf(b, fcntl.LOCK_SH)",
    "os.rename('a', 'c')",
    "os.rename('b', 'a')",
    "os.rename('v1', 'v2'); os.symlink('v2', 'v1'); os.dup(deep)",  # the old path leads to it still
    "new = opened('n2'); os.dup2(new, named); os.dup2(new, 60); os.close(new)",
    "os.unlink('a')",
    "os.link('a', 'c'); os.unlink('a')",
    "os.link('a', 'c'); os.unlink('a'); os.link('c', 'a')",
    "os.unlink('b'); os.close(os.open('b', os.O_CREAT))",
    "os.dup2(os.open('b', os.O_PATH), b)",
    "os.write(into, b'waits')",
    "fcntl.fcntl(into, 1031, 1 << 16 | 1)",  # F_SETPIPE_SZ
    "os.dup2(into2, into)",
    "os.close(into)",
    "os.close(out)",
    "os.set_blocking(out2, False)",
    "os.fchmod(into, 0o640)",
    "os.write(into, b'x'); os.read(out, 1)",
    "os.close(out); os.dup2(into2, into); os.close(out2); os.dup2(os.open('b', os.O_RDONLY), out)",
    "os.dup2(out2, 50); os.dup2(out, out2); os.dup2(50, out); os.close(50)",
    "libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 1000, 0), None)",
    "libc.timerfd_settime(timer, 1, (ctypes.c_long * 4)(5000, 0, 1 << 30, 0), None)",
    "libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1), None); select.select([timer], [], [])",
    "libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 0, 0, 1), None); os.read(timer, 8)",
    "libc.timerfd_settime(timer, 0, (ctypes.c_long * 4)(7, 0, 0, 0), None)",
    "os.dup2(libc.timerfd_create(0, 0), timer)",
    "os.dup2(timer, count)",
    "one.send(b'waits')",
    "packets.send(b'waits')",
    "one.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, count.to_bytes(4, 'little'))])",
    "one.send(b'!', socket.MSG_OOB); other.recv(1, socket.MSG_OOB)",
    "one.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)",
    "other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes([3]) + bytes(15))",
    "one.bind(bytes(1) + b'migrate-test-' + str(os.getpid()).encode())",
    "one.shutdown(socket.SHUT_WR)",
    "os.fchown(one.fileno(), 7, 7)",
    "pairs[0].setsockopt(socket.SOL_SOCKET, 26, struct.pack('HL', 1, ctypes.addressof(filter)))",
    "alike[1].setsockopt(socket.SOL_SOCKET, 26, struct.pack('HL', 1, ctypes.addressof(filter)))",
    "one.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, count.to_bytes(4, 'little'))]); other.recv(1)",
    "other.close()",
    "os.dup2(packets.fileno(), one.fileno())",
    "udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)",
    "udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 8)",
    "udp.connect(('127.0.0.1', 9))",
    "udp.sendto(b'waits', udp.getsockname())",
    "udp6.bind(('::1', 0))",
    "udp6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)",
    "alike[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 9000)",
    "alike[2].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 9000)",
    "[alike[at].setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 9) for at in (1, 3)]",
    "[one.setsockopt(socket.SOL_SOCKET, 35, 1) for one in alike]",
    "alike[3].setsockopt(socket.SOL_SOCKET, 11, 1); alike[2].setsockopt(socket.IPPROTO_UDP, 104, 1)",
    "alike6[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 32)",
    "[one.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 3) for one in (*alike6, *pairs)]",
    "pairs[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes([3]) + bytes(15))",
    "alike[0].bind(('127.0.0.1', 0)); alike[1].connect(alike[0].getsockname())",
    "os.dup2(alike[1].fileno(), alike[0].fileno())",
    "os.dup2(memory2, memory)",
    "os.dup2(memory2, 50); os.dup2(memory, memory2); os.dup2(50, memory); os.close(50)",
    "os.write(memory, b'more')",
    "os.fchmod(memory, 0o640)",
    "os.dup2(os.memfd_create('same', os.MFD_ALLOW_SEALING), memory)",
    "fcntl.fcntl(memory, fcntl.F_SETOWN, os.getpid())",
    "fcntl.flock(memory, fcntl.LOCK_SH)",
    "os.rmdir(os.getcwd() + '/sub') if os.path.isdir('sub') else os.mkdir('sub')",
    "os.dup2(folder, null)",
    "os.dup2(os.open('/dev/zero', os.O_RDWR), null)",
    "os.dup2(null, folder)",
)  # fmt: skip


class Target(Told):
    """One whose descriptor table is collected."""

    def __init__(self, process: "subprocess.Popen[bytes]", pidfd: int, folder: Path) -> None:
        super().__init__(process, folder)
        self.pidfd = pidfd

    def collect(self, sightings: Sightings | None) -> ImageSet:
        """Its table, as in a freeze."""
        images, unsure = self.look(sightings)
        settle_timers(unsure, images)
        return images

    def look(self, sightings: Sightings | None) -> tuple[ImageSet, list[UnsureTimer]]:
        """Its table at first sight."""
        images = ImageSet()
        ids = SharedIds(next_file_id=sightings.files.next_id if sightings else None)
        with Ghosts() as ghosts, Segments(READER) as segments:
            task = TaskTable(self.process.pid, self.pidfd, 1)
            unsure = collect_tables(
                [task], READER, images, options=OPTIONS, ids=ids, ghosts=ghosts, segments=segments, sightings=sightings
            )
            ghosts.undo_links()
        return images, unsure


@contextmanager
def a_target(folder: Path) -> Iterator[Target]:
    require_root()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", MAKES, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        pidfd = pidfd_open(process.pid)
        try:
            yield Target(process, pidfd, folder)
        finally:
            os.close(pidfd)
            process.kill()


def plain(images: ImageSet) -> list[str]:
    """What the images say, with files counted in the order of the descriptors that lead to them."""
    files = {entry.id: entry for entry in images.all(kinds.FILES)}
    lines = sorted(images.all(kinds.FDINFO, 1), key=lambda line: line.fd)
    numbers = {id: n for n, id in enumerate(dict.fromkeys((*(line.id for line in lines), *files)))}
    told = [f"{line.fd}: {line.flags} {line.type} {numbers[line.id]}" for line in lines]
    told += sorted(str(canonical(entry, numbers)) for entry in files.values())
    for kind in (kinds.PIPES_DATA, kinds.SK_QUEUES, kinds.FILE_LOCKS, kinds.MEMFD_INODE, kinds.REMAP_FPATH):
        for record in images.records(kind):
            one = type(record.message).FromString(record.message.SerializeToString())
            for field in ("id_for", "orig_id"):
                if hasattr(one, field):
                    setattr(one, field, numbers[getattr(one, field)])
            for scm in getattr(one, "scm", ()):
                scm.rights[:] = [numbers[id] for id in scm.rights]
            told.append(f"{one} {record.payload!r}")
    return told


def canonical(entry: FileEntry, numbers: dict[int, int]) -> FileEntry:
    made = FileEntry.FromString(entry.SerializeToString())
    kind = getattr(made, MEMBERS[entry.type])
    made.id = kind.id = numbers[entry.id]
    if MEMBERS[entry.type] == "tfd" and kind.vsec:
        assert kind.vsec >= 999 or kind.settime_flags
        kind.vsec = kind.vnsec = kind.due_ns = 0
    if MEMBERS[entry.type] == "reg" and "link_remap" in kind.name:
        kind.name = "link_remap"
    return made


def outcome(target: Target, sightings: Sightings | None) -> list[str]:
    """What is told, or why not."""
    try:
        return plain(target.collect(sightings))
    except (MigrateError, OSError) as error:  # the same both ways
        return [repr(error)]


def test_descriptors_that_come_as_others_go_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as before: the kernel's count alone does not tell."""
    monkeypatch.setattr(sightings_module, "MANY", 1)
    with a_target(tmp_path) as target, closing(Sightings()) as sightings:
        foresee([(target.process.pid, target.pidfd)], READER, OPTIONS, sightings)
        for change in ("os.close(twin); os.dup2(b, 200)", "os.dup2(b, 201)", "os.close(200); os.dup2(b, 202)"):
            target.do(change)
            assert outcome(target, sightings) == outcome(target, None)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_early_look_is_collected(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings_module, "MANY", 1)  # all that can be kept open is
    monkeypatch.setattr(sightings_module, "MANY_SOCKETS", 1)  # and not every socket is asked
    monkeypatch.setattr(sightings_module, "MANY_FILES", 1)  # and of most there is nothing to ask
    with a_target(tmp_path) as target, closing(Sightings()) as sightings:
        for _ in range(2):
            foresee([(target.process.pid, target.pidfd)], READER, OPTIONS, sightings)
        target.do(change)
        found = outcome(target, sightings)
        monkeypatch.setattr(foresight, "TOLD", ())
        assert found == outcome(target, None)


def test_fdinfo_that_is_kept_open_tells_of_whatever_has_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings_module, "MANY", 1)
    with a_target(tmp_path) as target, closing(Sightings()) as sightings:
        task, ours = (target.process.pid, target.pidfd), set(READER.fds(os.getpid()))
        foresee([task], READER, OPTIONS, sightings)
        assert len(READER.fds(os.getpid())) > len(ours) + 10
        target.do("os.dup2(b, a); os.lseek(b, 5, 0); os.close(count); os.close(timer); timer = os.eventfd(3)")
        found = outcome(target, sightings)
        with monkeypatch.context() as patch:
            patch.setattr(foresight, "TOLD", ())
            assert found == outcome(target, None)
        sightings.close()
        assert set(READER.fds(os.getpid())) == ours


def test_who_moves_a_file_from_outside_does_not_take_its_descriptors_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    look, images = Sightings.look, ImageSet()
    with ExitStack() as stack, open(tmp_path / "log", "wb", buffering=0) as log:
        tasks = []
        for number in (1, 2):
            process = stack.enter_context(subprocess.Popen(["sleep", "100"], stdin=subprocess.DEVNULL, stdout=log))
            stack.callback(process.kill)
            tasks.append(TaskTable(process.pid, pidfd_open(process.pid), number))
            stack.callback(os.close, tasks[-1].pidfd)

        def then_written(*arguments: Any, **named: Any) -> list[tuple[int, Seen | None]]:
            found = look(*arguments, **named)
            log.write(b"a line of somebody else")
            fcntl.fcntl(log, fcntl.F_SETFL, fcntl.fcntl(log, fcntl.F_GETFL) ^ os.O_APPEND)
            return found

        monkeypatch.setattr(Sightings, "look", then_written)
        ghosts, segments = stack.enter_context(Ghosts()), stack.enter_context(Segments(READER))
        collect_tables(tasks, READER, images, options=OPTIONS, ids=SharedIds(), ghosts=ghosts, segments=segments)
    ids = {line.id for task in tasks for line in images.all(kinds.FDINFO, task.files_id) if line.fd == 1}
    assert len(ids) == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_timer_that_was_due_but_not_counted_yet_has_expired(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not told:
        monkeypatch.setattr(foresight, "TOLD", ())
    spec = "(ctypes.c_long * 4)(0, 0, 0, 1)"
    with a_target(tmp_path) as target, closing(Sightings()) as sightings:
        for expires in (True, False):
            images, unsure = target.look(sightings)
            if expires:  # it had to at the look, but for its processor
                target.do(f"libc.timerfd_settime(timer, 0, {spec}, None); select.select([timer], [], [])")
            settle_timers(unsure, images)
            assert [entry.tfd.ticks for entry in images.all(kinds.FILES) if entry.HasField("tfd")] == [int(expires)]
            if expires:
                target.do("os.read(timer, 8)")


def test_what_has_not_changed_is_made_once(tmp_path: Path) -> None:
    with a_target(tmp_path) as target, closing(Sightings()) as sightings:
        foresee([(target.process.pid, target.pidfd)], READER, OPTIONS, sightings)
        first, second = (target.collect(sightings).all(kinds.FILES) for _ in range(2))
        kept = [MEMBERS[one.type] for one in first if any(one is other for other in second)]
        assert {"reg", "pipe", "efd", "tfd", "usk", "isk", "memfd"} <= set(kept)
        assert len(kept) == len(first)


def test_numbers_stay_and_new_files_get_new_ones(tmp_path: Path) -> None:
    with a_target(tmp_path) as target, closing(Sightings()) as sightings:
        foresee([(target.process.pid, target.pidfd)], READER, OPTIONS, sightings)
        before = {line.fd: line.id for line in target.collect(sightings).all(kinds.FDINFO, 1)}
        target.do("os.dup2(os.eventfd(0), third)")
        after = {line.fd: line.id for line in target.collect(sightings).all(kinds.FDINFO, 1)}
        moved = {fd for fd, id in after.items() if before.get(fd) != id}
        assert len(moved) == 2 and not {after[fd] for fd in moved} & set(before.values())


def test_what_changes_back_after_a_freeze_is_not_taken_for_what_it_was_in_it(tmp_path: Path) -> None:
    with a_target(tmp_path) as target, closing(Sightings()) as sightings:
        task = (target.process.pid, target.pidfd)
        foresee([task], READER, OPTIONS, sightings)
        before = outcome(target, sightings)
        target.do("os.lseek(a, 3, 0)")
        assert outcome(target, sightings) != before
        target.do("os.lseek(a, 10, 0)")
        assert outcome(target, sightings) == before
        foresee([task], READER, OPTIONS, sightings)
        assert outcome(target, sightings) == before


def test_a_service_outside_is_told_beside_the_socket_that_is_connected_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_socket, "JOURNAL_STREAM", os.fsencode(tmp_path / "journal"))
    with a_target(tmp_path) as target, closing(Sightings()) as sightings, socket.socket(socket.AF_UNIX) as service:
        service.bind(os.fspath(tmp_path / "journal"))
        service.listen()
        target.do("journal = socket.socket(socket.AF_UNIX); journal.connect('journal')")
        with service.accept()[0]:
            foresee([(target.process.pid, target.pidfd)], READER, OPTIONS, sightings)
            found = outcome(target, sightings)
            monkeypatch.setattr(foresight, "TOLD", ())
            assert found == outcome(target, None)
            assert "uflags: 1\n" in "".join(found)
