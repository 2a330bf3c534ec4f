"""Pre-copy's first round, from the memory of a process into the skeleton of its copy, against plain write and read of
as many bytes over the same socket in the same run: of one buffer that stays in the cache, and of the process's pages
read the same way and received into memory that is new."""

import mmap
import os
import socket
import sys
import time
import traceback
from typing import NoReturn

from core import DumpOptions, LiveDestination, LiveSource, RestoreOptions, Scanned
from migrate.pagesrv.filters import CompressMode
from migrate.pagesrv.lander import PageLander
from migrate.pagesrv.receiver import PageReceiver
from migrate.pagesrv.sender import PageSender, write_all
from tests.bench.sheet import Scale, Sheet
from tests.bench.target import started
from tests.roundtrip.targets import attached

CHUNK = 1 << 20
MODES: tuple[CompressMode, ...] = ("none", "auto")


def measure(scale: Scale, sheet: Sheet) -> None:
    """Incompressible memory; compression off, and left to decide that it is of no use."""
    with started("memory", str(scale.live_mib)) as target:
        for _ in range(scale.runs):
            for mode in MODES:
                with attached(target.pid, DumpOptions()) as source:
                    _compare(source, mode, sheet)


def _compare(source: LiveSource, mode: CompressMode, sheet: Sheet) -> None:
    scanned = source.scan()
    process = next(iter(source.processes.values()))
    size = process.pending.total // CHUNK * CHUNK
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _receive_and_exit(theirs, source, scanned, size)
    theirs.close()
    with ours:
        try:
            _wait_for(ours, "the skeleton")
            plain_s = _plain(ours, size)
            pages_s = _plain_pages(ours, source)
            began = time.monotonic()
            sender = PageSender(ours.fileno(), mode)
            count = sender.send_round(1, process.own_pid, process.page_reader(1), process.pending)
            sender.end_round(1)
            _wait_for(ours, "the pages")
            sent_s = time.monotonic() - began
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            os.waitpid(child, 0)
    process.was_sent(count.missing)
    sheet.add("plain write and read over the socket", "MiB/s", size / 2**20 / plain_s)
    sheet.add("plain, the process's pages into new memory", "MiB/s", count.pages / 256 / pages_s)
    sheet.add(f"pre-copy, compress {mode}", "MiB/s", count.pages / 256 / sent_s)
    sheet.ratio(f"pre-copy, compress {mode}: time of plain", sent_s / (count.pages * 4096), plain_s / size)
    sheet.ratio(f"pre-copy, compress {mode}: time of plain pages into new memory", sent_s, pages_s)


def _plain(connection: socket.socket, size: int) -> float:
    content = os.urandom(CHUNK)
    began = time.monotonic()
    for _ in range(size // CHUNK):
        write_all(connection.fileno(), [content])
    _wait_for(connection, "the plain bytes")
    return time.monotonic() - began


def _plain_pages(connection: socket.socket, source: LiveSource) -> float:
    process = next(iter(source.processes.values()))
    began = time.monotonic()
    for batch in process.page_reader(1).batches(process.pending):
        write_all(connection.fileno(), [batch.memory])
    _wait_for(connection, "the plain pages")
    return time.monotonic() - began


def _wait_for(connection: socket.socket, what: str) -> None:
    if not connection.recv(1):
        raise RuntimeError(f"{what}: the receiving process failed")


def _receive_and_exit(connection: socket.socket, source: LiveSource, scanned: Scanned, size: int) -> NoReturn:
    """The destination, in a process of its own as it would be on its own host."""
    code = 1
    destination = LiveDestination(f"migrate-bench-copy-{os.getpid()}", RestoreOptions(pid_mode="namespace"))
    try:
        memories = {process.own_pid: process.memory for process in source.processes.values()}
        destination.prepare(None, source.pid)
        destination.begin_round(scanned.tree, memories)
        connection.sendall(b"1")
        _drain(connection, size)
        connection.sendall(b"2")
        _drain_into_new(connection, sum(process.pending.total for process in source.processes.values()))
        connection.sendall(b"2")
        lander = PageLander({pid: destination.landing_memory(pid) for pid in memories})
        PageReceiver(connection.fileno(), lander).run_until_round_end(1)
        connection.sendall(b"3")
        code = 0
    except BaseException:  # noqa: BLE001 a forked process must not go on as its parent
        traceback.print_exc(file=sys.stderr)
    finally:
        destination.abort()
        os._exit(code)


def _drain(connection: socket.socket, size: int) -> None:
    buffer = memoryview(bytearray(CHUNK))
    while size:
        size -= os.readv(connection.fileno(), [buffer[: min(size, CHUNK)]])


def _drain_into_new(connection: socket.socket, size: int) -> None:
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as new, memoryview(new) as left:
        done = 0
        while done < size:
            with left[done : done + CHUNK] as part:
                done += os.readv(connection.fileno(), [part])
