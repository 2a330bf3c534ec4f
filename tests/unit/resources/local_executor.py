"""Processes for the tests of resources: one that sets something up, one that runs a program as a stem would.

Both are forks without any descriptor of ours; when ready they stop themselves and can be looked at.
"""

import ctypes
import mmap
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from core.native._kernel import lib

from core.images.store import ImageSet, decode_stream, encode_stream
from core.kernel.calls import SYSCALLS, pidfd_getfd, pidfd_open
from core.options import DumpOptions, FileChoices, TcpChoice
from core.plan.encode import MAY_FAIL, OP, encode
from core.plan.ops import Program
from core.proc.fdinfo import FdInfo
from core.proc.reader import ProcReader
from core.resources import file_table, table_collect, table_plan
from core.resources.context import OpenTable, make_table, open_files

FILES_ID = 1
AREA_SIZE = 16 << 20
NUL = b"\0"
READER = ProcReader()


@dataclass(frozen=True, slots=True)
class LocalTask:
    """A stopped child."""

    pid: int
    pidfd: int

    def fds(self) -> list[int]:
        return READER.fds(self.pid)

    def info(self, fd: int) -> FdInfo:
        return READER.fdinfo(self.pid, fd)

    def link(self, fd: int) -> str:
        return READER.fd_link(self.pid, fd)

    def duplicate(self, fd: int) -> int:
        """A descriptor of ours for its open file; the caller closes it."""
        return pidfd_getfd(self.pidfd, fd)

    @contextmanager
    def table(self, tcp: TcpChoice = "refuse") -> Iterator[OpenTable]:
        with open_files(self.pid, READER, self.pidfd) as files:
            yield make_table(files, DumpOptions(tcp=tcp))

    def collect(self, tcp: TcpChoice = "refuse", *, ext_unix_sk: bool = False) -> ImageSet:
        """Its descriptors as images, once through their bytes."""
        images = ImageSet()
        options = DumpOptions(tcp=tcp, files=FileChoices(ext_unix_sk=ext_unix_sk))
        table_collect.collect(self.pid, self.pidfd, READER, images, files_id=FILES_ID, options=options)
        return decode_stream(encode_stream(images))


@contextmanager
def source_task(setup: Callable[[], object], keep: Sequence[int] = ()) -> Iterator[LocalTask]:
    """A child that ran `setup` with no descriptors but `keep` (moved to 0, 1, …); what it returns stays alive."""

    def run() -> None:
        _empty_table(keep)
        kept = setup()
        os.kill(os.getpid(), signal.SIGSTOP)
        del kept

    with _stopped_child(run) as task:
        yield task


def _empty_table(keep: Sequence[int]) -> None:
    high = [os.dup2(fd, 700 + index) for index, fd in enumerate(keep)]
    os.closerange(0, 700)
    os.closerange(700 + len(high), 4096)
    for index, fd in enumerate(high):
        os.dup2(fd, index, inheritable=True)
        os.close(fd)


@contextmanager
def restored_task(
    images: ImageSet, tcp: TcpChoice = "refuse", before: Callable[[], None] | None = None
) -> Iterator[LocalTask]:
    """A child that ran both programs of the plan in an empty table."""
    plan = table_plan.plan(images, FILES_ID, tcp=tcp)
    area = mmap.mmap(-1, AREA_SIZE)
    failure = mmap.mmap(-1, 4096)

    def run() -> None:
        _empty_table(())
        if before is not None:
            before()
        programs = (plan.program, plan.late_program, plan.close_program)
        message = next((failed for program in programs if (failed := run_program(program, area))), None)
        failure.write((message or "").encode()[:4000])
        os.kill(os.getpid(), signal.SIGSTOP)

    with _stopped_child(run) as task:
        message = failure[:4000].rstrip(NUL).decode()
        if message:
            raise AssertionError(message)
        file_table.check_made(task.pid, READER, images, FILES_ID)
        yield task


def run_program(program: Program, area: mmap.mmap) -> str | None:
    """Run it here, out of its encoded bytes; what failed, or None."""
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    content = encode(program, base, os.getpid(), signal.SIGCONT).content
    area[: len(content)] = content
    results: list[int] = []
    for index, op in enumerate(program):
        number, *words, flags, _ = OP.unpack_from(area, index * OP.size)
        assert number == SYSCALLS[op.name]
        args = [results[word] if flags >> bit & 1 else word for bit, word in enumerate(words)]
        results.append(int(lib.mg_syscall(number, *(word & 0xFFFFFFFFFFFFFFFF for word in args))))
        if results[-1] < 0 and not flags & MAY_FAIL:
            return f"op {index}: {op.name}: {op.why}: {os.strerror(-results[-1])}"
    return None


@contextmanager
def _stopped_child(run: Callable[[], None]) -> Iterator[LocalTask]:
    failure = mmap.mmap(-1, 4096)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(60)
            run()
            status = 0
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the parent raises it
            failure.write(repr(error).encode()[:4000])
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the child ended: {failure[:4000].rstrip(NUL).decode()}"
    try:
        pidfd = pidfd_open(pid)
        try:
            yield LocalTask(pid, pidfd)
        finally:
            os.close(pidfd)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
