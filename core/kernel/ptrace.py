"""ptrace(2) of seized threads: stop, registers, let go. Errors are OSError.

Every call must come from the OS thread that attached.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import MigrateError, TraceeError
from core.kernel.threads import Registers, ThreadBlock, ThreadState
from core.native._kernel import ffi, lib
from core.proc.reader import ProcReader

PTRACE_CONT: Final = 7
PTRACE_SYSCALL: Final = 24
PTRACE_GETSIGINFO: Final = 0x4202
PTRACE_GETREGSET: Final = 0x4204
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_LISTEN: Final = 0x4208
PTRACE_SETOPTIONS: Final = 0x4200
PTRACE_DETACH: Final = 17
PTRACE_SEIZE: Final = 0x4206
PTRACE_PEEKSIGINFO: Final = 0x4209
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_SECCOMP_GET_FILTER: Final = 0x420C
PTRACE_SECCOMP_GET_METADATA: Final = 0x420D
PEEKSIGINFO_SHARED: Final = 1
SIGINFO_SIZE: Final = 128
PEEK_AT_ONCE: Final = 256
PTRACE_EVENT_STOP: Final = 128
STOP_TIMEOUT_S: Final = 2.0
DISPATCH_HINT: Final = "what does that (Wine, emulators) cannot be moved"
DYING_S: Final = 5.0
O_TRACESYSGOOD: Final = 1
O_EXITKILL: Final = 1 << 20
O_SUSPEND_SECCOMP: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a tracee stopped, decoded once from the wait status."""

    signal: int
    event: int
    syscall: bool

    @property
    def is_interrupt(self) -> bool:
        """Our INTERRUPT, a group-stop, or the first stop of an auto-attached child."""
        return self.event == PTRACE_EVENT_STOP


class TraceeExited(ProcessLookupError):
    """The thread ended while we waited for it: `status` is the wait status."""

    def __init__(self, tid: int, status: int) -> None:
        super().__init__(errno.ESRCH, f"thread {tid} ended")
        self.tid = tid
        self.status = status


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def stop_threads(
    tids: list[int], options: int, timeout_s: float = STOP_TIMEOUT_S, *,
    on_stop: Callable[[float], object] = lambda began_s: None,
) -> dict[int, int]:  # fmt: skip
    """SEIZE and INTERRUPT every thread; tid → 0 or errno. What stopped stays stopped, what did not stays attached.
    `on_stop` is told afterwards since when not all of them run, by time.monotonic()."""
    errors = ffi.new("int[]", len(tids))
    on_stop(lib.mg_stop_threads(ffi.new("int[]", tids), len(tids), options, int(timeout_s * 1000), errors) / 1e6)
    return {tid: -errors[index] for index, tid in enumerate(tids)}


def read_threads(tids: list[int]) -> ThreadBlock:
    """State of stopped threads of one process, in one native call; OSError names the first that cannot be read,
    TraceeError one that must not be borrowed: what we have it call would go to its own handler."""
    block = ThreadBlock.of_size(len(tids))
    if block.fill(tids):
        for raw in block.raws:
            if raw.error == errno.EOPNOTSUPP:
                raise TraceeError(
                    raw.tid, "handles its system calls itself (Syscall User Dispatch)", hint=DISPATCH_HINT
                )
            _checked(-raw.error, f"thread {raw.tid}")
    return block


def write_threads(states: Sequence[ThreadState]) -> None:
    """Put xstate, signal mask and registers into every one of these stopped threads, in that order."""
    failed = ffi.new("int *")
    error = lib.mg_write_threads(ThreadBlock.of(states).array, len(states), failed)
    if error:
        _checked(error, f"thread {states[failed[0]].tid}: set registers")


def read_registers(tid: int) -> Registers:
    """General registers of a stopped thread."""
    regs = ffi.new("unsigned long long[27]")
    vector = ffi.new("unsigned long long[2]", [int(ffi.cast("unsigned long long", regs)), 27 * 8])
    _checked(lib.mg_ptrace(PTRACE_GETREGSET, tid, 1, ffi.cast("unsigned long long", vector)), f"thread {tid}")
    return Registers(*regs)


def write_registers(tid: int, registers: Registers) -> None:
    """Set the general registers only."""
    regs = ffi.new("unsigned long long[27]", registers)
    vector = ffi.new("unsigned long long[2]", [int(ffi.cast("unsigned long long", regs)), 27 * 8])
    _checked(lib.mg_ptrace(0x4205, tid, 1, ffi.cast("unsigned long long", vector)), f"thread {tid}: set registers")


def write_sigmask(tid: int, mask: int) -> None:
    """Set the blocked signals of a stopped thread, bit 0 being signal 1."""
    value = ffi.new("unsigned long long *", mask)
    _checked(lib.mg_ptrace(PTRACE_SETSIGMASK, tid, 8, ffi.cast("unsigned long long", value)), f"thread {tid}: sigmask")


def is_stopped(tid: int) -> bool:
    """True when the traced thread stands in a stop, false when it runs or is gone."""
    try:
        read_registers(tid)
    except ProcessLookupError:
        return False
    return True


def stop_anew(tid: int) -> None:
    """Bring a traced thread, which may run or be in any stop, into a stop of an INTERRUPT: only from there does the
    kernel restart system calls. TraceeExited, ProcessLookupError: it is gone.
    """
    stopped = is_stopped(tid)
    interrupt(tid)
    if stopped:
        resume(tid)
    while not wait_stop(tid).is_interrupt:
        interrupt(tid)  # any other stop takes the one that is on its way
        resume(tid)


def read_siginfo(tid: int) -> tuple[int, int, int]:
    """(signo, code, sender pid) of the signal the thread stopped for."""
    buffer = ffi.new("int[32]")
    _checked(lib.mg_ptrace(PTRACE_GETSIGINFO, tid, 0, ffi.cast("unsigned long long", buffer)), f"thread {tid}: siginfo")
    return buffer[0], buffer[2], buffer[4]


def peek_signals(tid: int, *, shared: bool) -> list[bytes]:
    """Queued signals of a stopped thread (or its process), each a 128-byte siginfo, oldest first; they stay queued."""
    found: list[bytes] = []
    buffer = ffi.new("unsigned char[]", PEEK_AT_ONCE * SIGINFO_SIZE)
    while True:
        which = ffi.new("unsigned long long[2]", [len(found), (PEEK_AT_ONCE << 32) | (PEEKSIGINFO_SHARED * shared)])
        words = [int(ffi.cast("unsigned long long", place)) for place in (which, buffer)]
        count = _checked(lib.mg_ptrace(PTRACE_PEEKSIGINFO, tid, *words), f"thread {tid}: queued signals")
        content = bytes(ffi.buffer(buffer, count * SIGINFO_SIZE))
        found += [content[start : start + SIGINFO_SIZE] for start in range(0, len(content), SIGINFO_SIZE)]
        if count < PEEK_AT_ONCE:
            return found


def read_seccomp_filter(tid: int, index: int) -> tuple[bytes, int] | None:
    """Filter number `index` of a stopped thread, 0 the first installed: (BPF program, flags); None past the last."""
    size = lib.mg_ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, 0)
    if size == -errno.ENOENT:
        return None
    buffer = ffi.new("unsigned long long[]", _checked(size, f"thread {tid}: seccomp filter {index}"))
    address = int(ffi.cast("unsigned long long", buffer))
    _checked(lib.mg_ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, address), f"thread {tid}: seccomp filter {index}")
    asked = ffi.new("unsigned long long[2]", [index, 0])
    address = int(ffi.cast("unsigned long long", asked))
    _checked(lib.mg_ptrace(PTRACE_SECCOMP_GET_METADATA, tid, 16, address), f"thread {tid}: seccomp filter {index}")
    return bytes(ffi.buffer(buffer)), int(asked[1])


def seize(tid: int, options: int) -> None:
    """PTRACE_SEIZE without stopping."""
    _checked(lib.mg_ptrace(PTRACE_SEIZE, tid, 0, options), f"thread {tid}: seize")


def interrupt(tid: int) -> None:
    """Ask a seized thread to stop."""
    _checked(lib.mg_ptrace(PTRACE_INTERRUPT, tid, 0, 0), f"thread {tid}: interrupt")


def resume(tid: int, request: int = PTRACE_CONT, signal_number: int = 0) -> None:
    """Let a stopped thread go on (PTRACE_CONT or PTRACE_SYSCALL), delivering `signal_number` unless 0."""
    _checked(lib.mg_ptrace(request, tid, 0, signal_number), f"thread {tid}: resume")


def set_options(tid: int, options: int) -> None:
    """Replace the ptrace options of a stopped thread."""
    _checked(lib.mg_ptrace(PTRACE_SETOPTIONS, tid, 0, options), f"thread {tid}: set options")


def detach(tids: list[int]) -> None:
    """Let go of every stopped thread; those gone are passed over.

    The first one let go may at once meet a deadly signal, which then ends its siblings in their stops. Such a one
    can no longer be detached: until its tracer has reaped it, nobody is told that the process has ended.
    """
    errors = ffi.new("int[]", len(tids))
    if lib.mg_detach_threads(ffi.new("int[]", tids), len(tids), errors):
        _reap_dead([tid for tid, error in zip(tids, errors, strict=True) if error])


def _reap_dead(tids: list[int]) -> None:
    """Reap threads that died in their stops. Our own children's status is for whoever waits for them."""
    reader, leaders = ProcReader(), []
    for tid in tids:
        try:
            status = reader.status(tid)
        except (OSError, MigrateError):
            continue
        if status.tgid != tid:
            _reap_dying(tid)
        elif status.ppid != os.getpid():
            leaders.append(tid)
    for tid in leaders:  # which end only after their threads
        _reap_dying(tid)


def _reap_dying(tid: int) -> None:
    status = ffi.new("int *")
    deadline = time.monotonic() + DYING_S
    while lib.mg_wait(tid, os.WNOHANG, status) == 0 and time.monotonic() < deadline:
        time.sleep(0.001)


def wait_stop(tid: int) -> Stop:
    """Block until the thread stops; TraceeExited when it ends instead."""
    status = ffi.new("int *")
    result = -4
    while result == -4:
        result = lib.mg_wait(tid, 0, status)
    _checked(result, f"thread {tid}: wait")
    value = int(status[0])
    if not os.WIFSTOPPED(value):
        raise TraceeExited(tid, value)
    raw_signal = (value >> 8) & 0xFF
    return Stop(raw_signal & 0x7F, value >> 16, raw_signal == signal.SIGTRAP | 0x80)


def reap_killed(tids: list[int]) -> None:
    """Wait for traced threads that were sent SIGKILL, leader first in the list: then their parent hears of it."""
    for tid in [*tids[1:], *tids[:1]]:
        try:
            while True:
                wait_stop(tid)
                resume(tid)
        except (ChildProcessError, ProcessLookupError):
            pass
