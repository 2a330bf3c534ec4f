"""`--sync-files` brings the files along that the other host lacks, and overwrites none without being asked."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.hosts import Host
from tests.migrate.moving import PYTHON, Pair, moving, processes
from tests.waiting import wait_until

READER = (
    "import os, time; f = open('/srv/app/sub/data'); os.chdir('/srv/app'); open('/run/reads', 'w'); time.sleep(1000)"
)


def lay_out(host: Host, content: str) -> Path:
    """/srv/app/sub/data, with attributes that are not the usual ones."""
    path = host.path("/srv/app/sub/data")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.parent.chmod(0o750)
    path.chmod(0o640)
    os.chown(path, 4711, 4712)
    os.setxattr(path, "user.note", b"kept")
    os.utime(path, ns=(10**18, 10**18 + 123))
    return path


@contextmanager
def reading(host: Host) -> Iterator[int]:
    """A process of `host` that has the file open and its directory as its own."""
    host.path("/run/reads").unlink(missing_ok=True)
    pid = host.start([PYTHON, "-c", READER])
    try:
        wait_until(host.path("/run/reads").exists, "the file is open")
        yield pid
    finally:
        host.run(["kill", "-9", str(pid)], check=False)


def ended(host: Host, pid: int) -> None:
    host.run(["kill", "-9", str(pid)])
    wait_until(lambda: not host.alive(pid), "it ended")


def test_files_are_copied_when_asked_and_only_then(pair: Pair) -> None:
    ours, theirs = lay_out(pair.a, "the data"), pair.b.path("/srv/app/sub/data")
    with reading(pair.a) as pid:
        said = pair.migrate(pid, "root@host-b")
        assert said.code == 3 and "/srv/app/sub/data" in said.err
        assert not theirs.exists()
        said = pair.migrate(pid, "root@host-b", "--sync-files", "missing")
        assert said.code == 0, said.text
        assert "/srv/app/sub/data" in said.text
        assert pair.b.alive(pid) and not pair.a.alive(pid)
    found, wanted = theirs.stat(), ours.stat()
    assert theirs.read_text() == "the data"
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert os.getxattr(theirs, "user.note") == b"kept"
    assert theirs.parent.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in theirs.parent.iterdir()] == ["data"]
    ended(pair.b, pid)

    theirs.write_text("something else")
    with reading(pair.a) as pid:
        said = pair.migrate(pid, "root@host-b", "--sync-files", "missing")
        assert said.code == 3 and "/srv/app/sub/data" in said.err
        assert theirs.read_text() == "something else"
        said = pair.migrate(pid, "root@host-b", "--sync-files", "changed")
        assert said.code == 0, said.text
        assert theirs.read_text() == "the data"
        ended(pair.b, pid)


MAKER = """
import mmap, os, socket, time
os.makedirs('/run/made/in')
os.chmod('/run/made', 0o751)
page = os.open('/run/made/in/page', os.O_RDWR | os.O_CREAT)
os.ftruncate(page, 4096)
shared = mmap.mmap(page, 4096)
shared[:4] = b'kept'
os.close(page)
name = socket.socket(socket.AF_UNIX)
name.bind('/run/made/socket')
name.listen()
gone = open('/run/made/gone', 'w+')
os.unlink('/run/made/gone')
open('/run/ready', 'w')
while shared[:4] == b'kept':
    time.sleep(0.02)
open('/run/stored', 'w').write(shared[:4].decode())
time.sleep(1000)
"""


def test_directories_are_made_for_what_is_made_in_them(pair: Pair) -> None:
    """A file that is mapped and carried (as a JVM has one), a deleted file, the name of a socket."""
    pid = pair.a.start([PYTHON, "-c", MAKER])
    wait_until(pair.a.path("/run/ready").exists, "all of it is there")
    said = pair.migrate(pid, "root@host-b")
    assert said.code == 3, said.text
    for what in ("/run/made (", "/run/made/in (", "/run/made/in/page is made there", "--sync-files missing"):
        assert what in said.err, said.err
    assert not pair.b.path("/run/made").exists()
    said = pair.migrate("check", pid, "root@host-b", "--sync-files", "missing")
    assert said.code == 0 and "would copy /run/made/in to the destination" in said.text, said.text
    assert not pair.b.path("/run/made").exists()
    said = pair.migrate(pid, "root@host-b", "--sync-files", "missing")
    assert said.code == 0, said.text
    assert pair.b.path("/run/made").stat().st_mode & 0o7777 == 0o751
    assert pair.b.path("/run/made/socket").is_socket()
    with pair.b.path("/run/made/in/page").open("r+b") as page:
        assert page.read(4) == b"kept"
        page.seek(0)
        page.write(b"seen")
    wait_until(
        lambda: pair.b.path("/run/stored").exists() and pair.b.path("/run/stored").read_text(), "it sees a store"
    )
    assert pair.b.path("/run/stored").read_text() == "seen"
    ended(pair.b, pid)


LISTENER = "import socket, time; s = socket.create_server(('127.0.0.1', 7007)); {}time.sleep(1000)"


def test_nothing_is_copied_for_a_process_that_cannot_move(pair: Pair) -> None:
    """Its port is taken over there: the file that is lacking there stays lacking."""
    lay_out(pair.a, "the data")
    theirs = pair.b.path("/srv/app/sub/data")
    theirs.unlink(missing_ok=True)
    pids = []
    for host, more in ((pair.a, "f = open('/srv/app/sub/data'); "), (pair.b, "")):
        pids.append(host.start([PYTHON, "-c", LISTENER.format(more)]))
        wait_until(partial(host.listens, 7007), "it listens")
    said = pair.migrate(pids[0], "root@host-b", "--sync-files", "missing")
    assert said.code == 3 and "its port is taken" in said.err, said.text
    assert "would copy /srv/app/sub/data" in said.text and "is missing" not in said.err, said.text
    assert not theirs.exists()
    for host, pid in zip((pair.a, pair.b), pids, strict=True):
        ended(host, pid)


WRITER = """
import fcntl, mmap, os, time
os.makedirs('/srv/disk/sub')
os.chmod('/srv/disk/sub', 0o750)
db = os.open('/srv/disk/sub/db', os.O_RDWR | os.O_CREAT, 0o640)
fcntl.flock(db, fcntl.LOCK_EX)
os.ftruncate(db, 1 << 20)
page = os.open('/srv/disk/sub/page', os.O_RDWR | os.O_CREAT)
os.ftruncate(page, 8192)
shared = mmap.mmap(page, 8192)
os.close(page)
os.setxattr('/srv/disk/sub/db', 'user.note', b'kept')
log = open('/srv/disk/sub/log', 'a', buffering=1)
n = 0
while True:
    log.write(f'{n}\\n')
    os.pwrite(db, n.to_bytes(8, 'little'), n * 8 % (1 << 20))
    shared[4096:4104] = n.to_bytes(8, 'little')
    n += 1
    time.sleep(0.001)
"""


def check_written(folder: Path) -> int:
    """The log has every line once; what was written to the two others is as new as it. How many lines there are."""
    lines = [int(line) for line in (folder / "log").read_text().splitlines()]
    assert lines == list(range(len(lines)))
    db = (folder / "db").read_bytes()
    found = [int.from_bytes(db[8 * n : 8 * n + 8], "little") for n in range(len(lines) - 1)]
    assert found == lines[: len(found)]
    assert int.from_bytes((folder / "page").read_bytes()[4096:4104], "little") >= len(lines) - 2
    return len(lines)


@contextmanager
def own_disks(pair: Pair) -> Iterator[list[Path]]:
    """/srv/disk is on another disk of each host; where that is found."""
    disks = []
    for host in (pair.a, pair.b):
        disks.append(disk := pair.folder / f"disk-of-{host.name}-{time.monotonic_ns()}")
        disk.mkdir()
        host.run(["mkdir", "-p", "/srv/disk"])
        host.run(["mount", "--bind", str(disk), "/srv/disk"])
    try:
        yield [disk / "sub" for disk in disks]
    finally:
        for host in (pair.a, pair.b):
            host.run(["umount", "--lazy", "/srv/disk"])


@contextmanager
def writing(pair: Pair, here: Path) -> Iterator[int]:
    """A process of host-a that writes to its disk."""
    pid = pair.a.start([PYTHON, "-c", WRITER])
    try:
        wait_until(lambda: (here / "log").exists() and check_written(here) > 100, "it writes")
        yield pid
    finally:
        for host in (pair.a, pair.b):
            host.run(["kill", "-9", str(pid)], check=False)


def test_files_that_are_written_to_go_along(pair: Pair) -> None:
    """What was written on the one disk before the freeze, and on the other after, is in one file."""
    with own_disks(pair) as (here, there), writing(pair, here) as pid:
        said = pair.migrate(pid, "root@host-b", "--file-locks")
        assert said.code == 3 and "/srv/disk/sub/db (fd" in said.err and "--sync-files missing" in said.err, said.text
        said = pair.migrate(pid, "root@host-b", "--file-locks", "--sync-files", "missing")
        assert said.code == 0 and "/srv/disk/sub/log goes along" in said.text, said.text
        before = check_written(there)
        wait_until(lambda: check_written(there) > before + 100, "it writes on")
        assert before >= check_written(here) > 100
        assert pair.b.run(["flock", "-n", "/srv/disk/sub/db", "true"], check=False).returncode == 1
        for name in ("", "log", "db", "page"):
            assert (there / name).stat().st_mode == (here / name).stat().st_mode
        assert os.getxattr(there / "db", "user.note") == b"kept"


@pytest.mark.parametrize("phase", ["precopy", "restore"])
def test_files_that_went_along_are_where_the_process_is(phase: str, pair: Pair) -> None:
    """Whoever holds the copy is killed, as is who speaks with the source: it runs here, or there with its files."""
    options = ("--file-locks", "--sync-files", "missing")
    with own_disks(pair) as (here, there), writing(pair, here) as pid:
        with moving(pair, pid, *options) as under_way:
            under_way.wait_for_phase(phase)
            for keeper in processes(pair.b, "migrate.keeper"):
                pair.b.run(["kill", "-9", str(keeper)], check=False)
            said = under_way.end()
        assert pair.a.alive(pid) != pair.b.alive(pid), said.text
        folder = here if pair.a.alive(pid) else there
        before = check_written(folder)
        wait_until(lambda: check_written(folder) > before + 20, "it writes on")
        if folder is here:  # what was begun there is in nobody's way
            said = pair.migrate(pid, "root@host-b", *options)
            assert said.code == 0 and check_written(there) > before, said.text


def test_a_file_that_is_open_by_two_names_is_refused(pair: Pair) -> None:
    links = "import os, signal; os.mkdir('/srv/disk/sub'); a = os.open('/srv/disk/sub/a', os.O_RDWR | os.O_CREAT)\n"
    links += "os.link('/srv/disk/sub/a', '/srv/disk/sub/b'); b = os.open('/srv/disk/sub/b', os.O_RDWR); signal.pause()"
    with own_disks(pair) as (here, _):
        pid = pair.a.start([PYTHON, "-c", links])
        wait_until(
            lambda: (here / "b").exists() and pair.a.run(["readlink", f"/proc/{pid}/fd/4"], check=False).stdout, "b"
        )
        said = pair.migrate(pid, "root@host-b", "--sync-files", "missing")
        assert said.code == 3 and "has it open as /srv/disk/sub/b too" in said.err and "both of its names" in said.err
        pair.a.run(["kill", str(pid)])


@pytest.mark.parametrize("act", ["rm log", "mv log log.1", "touch other && mv other log"])
def test_a_file_that_loses_its_name_on_the_way_ends_the_move(act: str, pair: Pair) -> None:
    """It would come back with the name, or where another file is by now."""
    script = pair.folder / f"act-{time.monotonic_ns()}"
    script.write_text(f"#!/bin/sh\ntest $CRTOOLS_SCRIPT_ACTION != network-lock || (cd /srv/disk/sub && {act})\n")
    script.chmod(0o755)
    options = ("--file-locks", "--sync-files", "missing", "--action-script", str(script))
    with own_disks(pair) as (here, there), writing(pair, here) as pid:
        said = pair.migrate(pid, "root@host-b", *options)
        assert said.code == 1 and "/srv/disk/sub/log: was deleted, renamed or replaced" in said.err, said.text
        assert pair.a.alive(pid) and not pair.b.alive(pid)
        assert not list(there.iterdir())


CLOSER = """
import os, time
os.makedirs('/srv/disk/sub')
db = os.open('/srv/disk/sub/db', os.O_RDWR | os.O_CREAT)
os.write(db, b'kept' * 5000)
while not os.path.exists('/srv/disk/close'):
    time.sleep(0.001)
os.close(db)
open('/srv/disk/closed', 'w').close()
time.sleep(1000)
"""
UNTIL_CLOSED = "touch /srv/disk/close; until test -e /srv/disk/closed; do :; done"


def test_a_file_that_is_closed_before_it_went_over_ends_the_move(pair: Pair) -> None:
    """It was said that it goes along; the process would make an empty one over there."""
    script = pair.folder / f"act-{time.monotonic_ns()}"
    script.write_text(f"#!/bin/sh\ntest $CRTOOLS_SCRIPT_ACTION != pre-dump || {{ {UNTIL_CLOSED}; }}\n")
    script.chmod(0o755)
    with own_disks(pair) as (here, there):
        pid = pair.a.start([PYTHON, "-c", CLOSER])
        wait_until(lambda: (here / "db").exists() and (here / "db").stat().st_size, "it is written")
        said = pair.migrate(pid, "root@host-b", "--sync-files", "missing", "--action-script", str(script))
        assert said.code == 1 and "/srv/disk/sub/db: was closed before it went over" in said.err, said.text
        assert pair.a.alive(pid) and not pair.b.alive(pid) and not (there / "db").exists()
        pair.a.run(["kill", str(pid)])


WATCHER = """
import ctypes, os, time
os.mkdir('/srv/watched')
watch = ctypes.CDLL(None).inotify_init1(os.O_NONBLOCK)
log = open('/srv/watched/log', 'w')
gone = open('/srv/watched/gone', 'w')
os.unlink('/srv/watched/gone')
assert ctypes.CDLL(None).inotify_add_watch(watch, b'/srv/watched', 0xfce) == 1  # what is opened and read does not count
open('/run/watches', 'w').close()
while not os.path.exists('/run/look'):
    time.sleep(0.01)
try:
    found = os.read(watch, 4096)
except BlockingIOError:
    found = b''
os.write(os.open('/run/found', os.O_WRONLY | os.O_CREAT), found.hex().encode() + b'.')
"""


def test_who_watches_the_files_is_not_told_that_we_close_them(pair: Pair) -> None:
    pid = pair.a.start([PYTHON, "-c", WATCHER])
    wait_until(pair.a.path("/run/watches").exists, "it watches")
    said = pair.migrate(pid, "root@host-b", "--sync-files", "missing")
    assert said.code == 0 and "/srv/watched/log goes along" in said.text, said.text
    pair.b.path("/run/look").touch()
    found = pair.b.path("/run/found")
    wait_until(lambda: found.exists() and found.read_text().endswith("."), "it has looked")
    assert found.read_text() == "."
