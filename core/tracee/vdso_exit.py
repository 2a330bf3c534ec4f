"""Threads that were stopped inside vDSO code are let run a little and stopped anew: elsewhere that code is another.

Nobody is stepped out of it: were we killed then, the trap of the last step would end the target.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from core.errors import TraceeError
from core.kernel import ptrace
from core.kernel.threads import REGISTER_NAMES, ThreadBlock
from core.memory.ranges import Ranges
from core.tracee.sigframe import signed
from core.vdso.mark import VdsoCode

LIMIT_S: Final = 0.3
LIMIT_BEFORE_ERROR_S: Final = 1.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 20e-6, 1e-3  # for one that did not get a processor, twice as long each time
FRAME_REACH: Final = 8192  # above the stack pointer: a signal's frame, which tells where it interrupted the thread
WORD: Final = 8
IP, SP, ORIG_AX = (REGISTER_NAMES.index(name) for name in ("ip", "sp", "orig_ax"))


def read_outside(pid: int, stopped: list[int], code: VdsoCode, stop_new: Callable[[], None]) -> ThreadBlock:
    """State of every thread, the leader first, with none inside of `code` that can be got out.

    `stopped`: tids in a ptrace stop; `stop_new` stops and adds those that are not. A thread that stays inside is fine
    when the code is the kernel's own: it will lie where it was. Behind a proxy it could not go on: TraceeError.
    """
    threads = _read(pid, stopped)
    inside = _find_inside(pid, threads, code)
    if not inside:
        return threads
    _bring_out(pid, stopped, inside, code, stop_new)
    return _read(pid, stopped)


def _read(pid: int, stopped: list[int]) -> ThreadBlock:
    return ptrace.read_threads(sorted(stopped, key=lambda tid: (tid != pid, tid)))


def _bring_out(
    pid: int, stopped: list[int], inside: Mapping[int, int], code: VdsoCode, stop_new: Callable[[], None]
) -> None:
    pause_s = FIRST_PAUSE_S
    begun = time.monotonic()
    while time.monotonic() < begun + (LIMIT_BEFORE_ERROR_S if _is_error(inside, code) else LIMIT_S):
        ptrace.detach(list(inside))
        for tid in inside:
            stopped.remove(tid)
        outside = set(stopped)
        time.sleep(pause_s)
        stop_new()
        before, inside = inside, _find_inside(pid, _read(pid, [tid for tid in stopped if tid not in outside]), code)
        if not inside:
            return
        if any(before.get(tid) == ip for tid, ip in inside.items()):
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    _refuse_inside(_read(pid, stopped), code)


def _find_inside(pid: int, threads: ThreadBlock, code: VdsoCode) -> dict[int, int]:
    """By thread, the instruction pointer of those that are inside or have been interrupted there."""
    found = {threads.array[index].tid: threads.array[index].regs[IP] for index in threads.inside(code.spans)}
    if code.proxied:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found |= {
                raw.tid: raw.regs[IP]
                for raw in threads.raws
                # one in a system call is far from its handler's end, and may have to be told that we interrupted it
                if raw.tid not in found
                and signed(raw.regs[ORIG_AX]) < 0
                and _was_interrupted(memory, raw.regs[SP], code.spans)
            }
        finally:
            os.close(memory)
    return found


def _was_interrupted(memory_fd: int, stack: int, spans: Ranges) -> bool:
    """Whether a signal handler will return into `spans`: an address of it is on the stack."""
    try:
        content = memoryview(os.pread(memory_fd, FRAME_REACH, stack))
    except OSError:
        return False
    words = content[: len(content) // WORD * WORD].cast("Q")
    return any(start <= word < end for start, end in spans for word in words)


def _is_error(inside: Mapping[int, int], code: VdsoCode) -> bool:
    """One that was only interrupted there may be an old address on a stack."""
    return code.proxied and any(code.spans.contains(ip) for ip in inside.values())


def _refuse_inside(threads: ThreadBlock, code: VdsoCode) -> None:
    for index in threads.inside(code.spans) if code.proxied else ():
        hint = "let it run (SIGCONT) if it is stopped, and try again"
        tid = threads.array[index].tid
        raise TraceeError(tid, "is always found inside its vDSO, which leads to this kernel's", hint=hint)
