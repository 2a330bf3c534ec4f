"""What cannot be carried is named when it is found, and the process lives on; signals meanwhile are not lost."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, pre_dump, restore
from core.errors import CollectError, KernelLacks, Refused, TraceeError
from core.images import kinds
from core.images.store import read_directory, write_directory
from core.resources import aio, posix_timers
from tests.roundtrip.targets import READER, attached, ended_afterwards, is_traced, ready
from tests.waiting import wait_until

LIBC = ctypes.CDLL(None, use_errno=True)
HOLDERS = {
    "netlink socket of protocol 16": "import socket; kept = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)",
    "messages wait in this netlink socket": (
        "import socket, struct; kept = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0);"
        "kept.send(struct.pack('IHHII16s', 32, 18, 0x301, 1, 0, bytes(16)))"
    ),
    r"watched by fcntl\(F_NOTIFY\)": (
        "import fcntl, os; kept = os.open('/', os.O_RDONLY);"
        "fcntl.fcntl(kept, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MULTISHOT)"
    ),
    "UDP_CORK": (
        "import socket; kept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); kept.setsockopt(17, 1, 1);"
        "kept.sendto(b'x', ('127.0.0.1', 9))"
    ),
    "a program chooses among the sockets": (
        "import socket; kept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); kept.setsockopt(1, 15, 1);"
        "kept.bind(('127.0.0.1', 0)); code = (ctypes.c_ulonglong * 1)(6);"
        "program = (ctypes.c_ulonglong * 2)(1, ctypes.addressof(code));"
        "assert libc.setsockopt(kept.fileno(), 1, 51, program, 16) == 0"
    ),
    "TCP socket with keys": (
        "import socket, struct; kept = socket.create_server(('127.0.0.1', 0));"
        "kept.setsockopt(6, 14, struct.pack('H126xBBHIi80s', 2, 0, 0, 3, 0, 0, b'abc'))"
    ),
    "shows process 1,": "import os; kept = os.open('/proc/1/stat', os.O_RDONLY)",
    "shows thread": (
        "import os, threading; threading.Thread(target=time.sleep, args=(100,), daemon=True).start();"
        "kept = os.open(f'/proc/self/task/{max(map(int, os.listdir(\"/proc/self/task\")))}/stat', os.O_RDONLY)"
    ),
    "local descriptor table": "d = (ctypes.c_uint * 4)(0, 0, 0xfffff, 0x51); assert libc.syscall(154, 1, d, 16) == 0",
    "thread keyring": "assert libc.syscall(250, 0, -1, 1) > 0",
    "process keyring": "assert libc.syscall(250, 0, -2, 1) > 0",
    "CLOCK_THREAD_CPUTIME_ID": (
        "import threading, time; threading.Thread(target=time.sleep, args=(100,), daemon=True).start();"
        "assert libc.syscall(222, 3, None, ctypes.byref(ctypes.c_int())) == 0"
    ),
    "SECCOMP_RET_USER_NOTIF": (
        "program = (ctypes.c_ulonglong * 4)(0x20, 0, 0x7fc00000 << 32 | 6, 0x7fff0000 << 32 | 6);"
        "program[1] = 0x15 | 1 << 24 | 0xffff << 32;"
        "fprog = (ctypes.c_ulonglong * 2)(4, ctypes.addressof(program));"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(fprog)) == 0"
    ),
}


@contextmanager
def holding(code: str, mark: Path) -> Iterator[int]:
    """A process that did `code` and waits."""
    text = f"import ctypes, time; libc = ctypes.CDLL(None); {code}; open({str(mark)!r}, 'w'); time.sleep(100)"
    null = subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=null, stdout=null, stderr=null, start_new_session=True
    ) as process:
        try:
            wait_until(lambda: mark.exists() or process.poll() is not None, "the process is ready")
            assert process.poll() is None
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("what", HOLDERS)
def test_it_is_named_and_the_process_lives_on(what: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with holding(HOLDERS[what], tmp_path / "mark") as pid:
        with pytest.raises((CollectError, Refused), match=what):
            dump(pid, images, DumpOptions())
        assert not is_traced(pid) and READER.status(pid).state in "RS"


def test_timer_ids_are_kept_without_the_kernels_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix_timers, "probe_chosen_ids", lambda: False)
    images = tmp_path / "images"
    images.mkdir()
    with ready("posix_timers.c", tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()
        restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            run.release()
            assert run.result() == "PASS"


class _Sender(threading.Thread):
    """Queues numbered signals of both kinds until told to end."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.sent = 0
        self.enough = threading.Event()
        self._pid = pid

    def run(self) -> None:
        while not self.enough.is_set() and self.sent < 2000:
            for number in (signal.SIGRTMIN + 5, signal.SIGRTMIN + 6):
                assert LIBC.sigqueue(self._pid, number, ctypes.c_void_p(self.sent)) == 0
            self.sent += 1
            self.enough.wait(0.0002)


def test_no_signal_is_lost_that_comes_during_the_freeze(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("signals_counted.c", tmp_path) as run:
        sender = _Sender(run.pid)
        sender.start()
        wait_until(lambda: sender.sent > 10, "signals are on their way")
        dump(run.pid, images, DumpOptions(leave_running=True))
        sender.enough.set()
        sender.join()
        wait_until(lambda: not READER.status(run.pid).shared_pending >> (signal.SIGRTMIN + 5), "all caught")
        run.release()
        assert run.result() == "PASS"
        assert (run.scratch_dir / "counted").read_text() == f"{sender.sent} {sender.sent}"


def test_signals_queued_at_the_freeze_come_with_the_copy(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("signals_counted.c", tmp_path) as run:
        os.kill(run.pid, signal.SIGSTOP)
        for number in range(100):
            for kind in (signal.SIGRTMIN + 5, signal.SIGRTMIN + 6):
                assert LIBC.sigqueue(run.pid, kind, ctypes.c_void_p(number)) == 0
        dump(run.pid, images, DumpOptions())
        run.stop()
        restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            os.kill(run.pid, signal.SIGCONT)
            run.release()
            assert run.result() == "PASS"
            assert (run.scratch_dir / "counted").read_text() == "100 100"


POLL_FOR_EVER = (
    "import os, struct; context = ctypes.c_ulong(0); assert libc.syscall(206, 8, ctypes.byref(context)) == 0;"
    "words = (1, 0, 0, 5, 0, os.pipe()[0], 1, 0, 0, 0, 0, 0);"
    "request = ctypes.create_string_buffer(struct.pack('<QIiHhIQQqQII', *words), 64);"
    "pointer = (ctypes.c_void_p * 1)(ctypes.addressof(request));"
    "assert libc.syscall(209, context, ctypes.c_long(1), pointer) == 1"
)


def test_a_request_that_stays_in_flight_is_named_and_the_process_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "DRAIN_LIMIT_S", 0.1)
    images = tmp_path / "images"
    images.mkdir()
    with holding(POLL_FOR_EVER, tmp_path / "mark") as pid:
        with pytest.raises(Refused, match=f"pid {pid}: context of io_setup.*requests in flight") as refused:
            dump(pid, images, DumpOptions())
        assert all(blocker.hint for blocker in refused.value.blockers)
        assert not is_traced(pid) and READER.status(pid).state in "RS"
        with pytest.raises(Refused, match="nobody tracks that"):
            pre_dump(pid, images, DumpOptions())


def test_contexts_of_a_kernel_that_tells_nothing_of_them_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing() -> int:
        raise KernelLacks("BTF", "is not there")

    monkeypatch.setattr(aio, "idle_references", nothing)
    with ready("aio.c", tmp_path) as run:
        with pytest.raises(Refused, match="cannot be told here: BTF: is not there"):
            dump(run.pid, tmp_path, DumpOptions())
        run.release()
        assert run.result() == "PASS"


def test_what_criu_says_of_contexts_is_enough(tmp_path: Path) -> None:
    """It has the rings among the pages, and no fields for what they hold."""
    images = tmp_path / "images"
    images.mkdir()
    with ready("aio.c", tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()
        found = read_directory(images)
        for ring in found.one(kinds.MM, run.pid).aios:
            for field in ("head", "tail", "unread"):
                ring.ClearField(field)
        write_directory(found, images)
        restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            run.release()
            assert run.result() == "PASS"


def test_a_thread_that_handles_its_system_calls_itself_is_not_touched(tmp_path: Path) -> None:
    allow = "allow = ctypes.create_string_buffer(1); assert libc.prctl(59, 1, 0, 0, allow) == 0"
    with holding(allow, tmp_path / "mark") as pid:
        with pytest.raises(TraceeError, match="Syscall User Dispatch"):
            dump(pid, tmp_path, DumpOptions())
        with pytest.raises(TraceeError, match="Syscall User Dispatch"), attached(pid):
            pass
        assert not is_traced(pid) and READER.exists(pid)
