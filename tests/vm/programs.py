"""The self-checking programs of tests/programs inside guests, and what moves them from guest to guest."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.vm.guest import Guest
from tests.vm.product import SHARE

MOVED: Final = (
    "memory_paced", "memory_writer-small", "interpreter_objects.py", "vdso_time", "vdso_time-static",
    "vdso_symbols", "avx", "rseq_large",
    "memory_above_47", "aio", "tree_sem_undo", "sockets_alike", "files_alike",
)  # fmt: skip
# Dumped by us and restored by criu, and the other way round.
CARRIED_BY_BOTH: Final = (
    "counter", "thread_join", "thread_bases", "thread_ids", "thread_choices", "robust_list",
    "tree_pairs", "tree_sessions", "tree_files", "tree_zombies", "tree_cow",
    "tree_ipc_namespace",
    "heap_growth", "memory_holes", "memory_layout", "memory_protection", "memory_dev_zero", "stack_depth",
    "file_mapping_private", "file_mapping_shared",
    "file_append", "file_position", "file_deleted", "file_locks", "dup_shared_offset", "cwd", "directory_position",
    "pipe_content", "pipe_full", "fifo", "unix_pairs", "unix_datagrams", "listen_tcp4", "listen_unix_path",
    "timerfd", "interval_timers", "eventfd", "epoll", "inotify", "inotify_unread", "signalfd", "signal_actions",
    "pending_signals", "rseq",
)  # fmt: skip
PATIENT: Final = ("--max-downtime", "5m", "--deadline", "30m")  # nothing is ever fast enough there
BESIDE_CRIU: Final = Path(__file__).with_name("beside_criu.py")
COMMAND_S: Final = 600.0  # of one command of ours; under emulation, on a busy machine
PROGRAM_S: Final = 300.0  # to get ready, or to have a result
LAST_PID: Final = "/proc/sys/kernel/ns_last_pid"
IMAGES: Final = "/srv/images"
LOWEST: Final = ("nice", "-n", "19")  # a guest has one processor, which a busy program would keep from us


@dataclass(frozen=True, slots=True)
class Started:
    """A program that is ready: its PID, and the directory by which it is spoken with."""

    pid: int
    folder: str

    def check(self, guest: Guest) -> None:
        """Let it check itself, wherever it is now."""
        guest.output("touch", f"{self.folder}/go")
        guest.wait(f"test -e {self.folder}/result", f"pid {self.pid} has its result", PROGRAM_S)
        assert guest.output("cat", f"{self.folder}/result") == "PASS"


def start(guest: Guest, name: str, by: Sequence[str] = ()) -> Started:
    """A compiled program, ready. `by`: a command that calls another, with its options."""
    return _start(guest, name, [*by, f"{SHARE}/programs/{name}"])


def start_python(guest: Guest, name: str) -> Started:
    """One in Python, ready."""
    return _start(guest, name, ["/usr/bin/python3", f"{SHARE}/programs/{name}"])


def _start(guest: Guest, name: str, command: list[str]) -> Started:
    folder = f"/srv/{name}"
    make_anew(guest, folder)
    with far_off(guest, name):
        guest.start_service([*LOWEST, *command, folder])
        guest.wait(f"test -e {folder}/ready -o -e {folder}/result", f"{name} is ready", PROGRAM_S)
    return Started(int(guest.output("cat", f"{folder}/ready")), folder)


@contextmanager
def far_off(guest: Guest, name: str) -> Iterator[None]:
    """What is started meanwhile gets PIDs of the name's own, which no kernel thread of another guest has."""
    last = guest.output("cat", LAST_PID)
    guest.output("sh", "-c", f"echo {20000 + zlib.crc32(name.encode()) % 100 * 100} >{LAST_PID}")
    yield
    guest.output("sh", "-c", f"echo {last} >{LAST_PID}")


def make_anew(guest: Guest, *folders: str) -> None:
    """Empty directories."""
    guest.output("rm", "-rf", *folders)
    guest.output("mkdir", "-p", *folders)


def migrate(program: Started, here: Guest, there: Guest, *options: str) -> None:
    """`migrate PID root@THERE`, which has to work."""
    make_anew(there, program.folder)
    here.run(["migrate", str(program.pid), f"root@{there.address}", *PATIENT, *options], timeout_s=COMMAND_S)
    assert not name_of(program.pid, here)
    assert name_of(program.pid, there)


def carry(program: Started, here: Guest, there: Guest) -> None:
    """Dump it here, copy the directory, restore it there."""
    make_anew(here, IMAGES)
    make_anew(there, IMAGES, program.folder)
    here.run(["migrate", "dump", "-t", str(program.pid), "-D", IMAGES], timeout_s=COMMAND_S)
    here.run(["scp", "-O", "-q", "-r", IMAGES, f"root@{there.name}:/srv/"], timeout_s=COMMAND_S)
    there.run(["migrate", "restore", "-D", IMAGES, "-d"], timeout_s=COMMAND_S)


def name_of(pid: int, guest: Guest) -> str:
    """Its name there; "" when it is not there, or a zombie."""
    stat = guest.run(["cat", f"/proc/{pid}/stat"], check=False).stdout
    name, state = stat.partition("(")[2].rpartition(")")[::2]
    return "" if state.split()[:1] in ([], ["Z"], ["X"]) else name
