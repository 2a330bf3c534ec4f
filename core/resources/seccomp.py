"""Seccomp of threads: strict mode and chains of filters, each filter once in the image however many threads have it.

Installed while the stem's filters are suspended (PTRACE_O_SUSPEND_SECCOMP), so none of them stops our own calls.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from core.errors import CollectError, ImageError
from core.images.pb.core_pb2 import SECCOMP_DISABLED, SECCOMP_FILTER, SECCOMP_STRICT, ThreadCoreEntry
from core.images.pb.seccomp_pb2 import SeccompEntry, SeccompFilter
from core.kernel import ptrace
from core.plan.ops import Pointers, Program, Syscall

PR_SET_SECCOMP: Final = 22
MODE_STRICT: Final = 1
SET_MODE_FILTER: Final = 1
FLAG_TSYNC, FLAG_LOG, FLAG_SPEC_ALLOW = 1, 2, 4
INSTRUCTION: Final = struct.Struct("<HBBI")  # struct sock_filter: code, jt, jf, k
RETURN: Final = 0x06  # BPF_RET | BPF_K
USER_NOTIFICATION: Final = 0x7FC00000
ACTION: Final = 0xFFFF0000

MODES: Final = (SECCOMP_DISABLED, SECCOMP_STRICT, SECCOMP_FILTER)

Chain = tuple[int, ...]  # indexes in the image, the first installed first


@dataclass(slots=True)
class Filters:
    """The filters of a tree, as they are found. Same content after the same one is the same filter."""

    entry: SeccompEntry = field(default_factory=SeccompEntry)
    _known: dict[tuple[int | None, bytes, int], int] = field(default_factory=dict)

    def add(self, previous: int | None, program: bytes, flags: int) -> int:
        """Index of the filter that was installed after `previous`."""
        key = (previous, program, flags)
        if key not in self._known:
            self._known[key] = len(self.entry.seccomp_filters)
            self.entry.seccomp_filters.append(SeccompFilter(filter=program, prev=previous, flags=flags))
        return self._known[key]


def collect(tid: int, mode: int, filters: Filters, entry: ThreadCoreEntry) -> None:
    """Fill fields of a stopped thread's image; new filters are added to `filters`. `mode`: as in /proc/PID/status."""
    entry.seccomp_mode = MODES[mode]
    if mode != SECCOMP_FILTER:
        return
    last: int | None = None
    for program, flags in _read_filters(tid):
        if reason := judge(program):
            raise CollectError(f"thread {tid}", reason)
        last = filters.add(last, program, flags)
    if last is not None:
        entry.seccomp_filter = last


def _read_filters(tid: int) -> Iterator[tuple[bytes, int]]:
    try:
        for index in count():
            if (found := ptrace.read_seccomp_filter(tid, index)) is None:
                return
            yield found
    except OSError as error:
        raise CollectError(f"thread {tid}", f"its seccomp filters cannot be read: {error.strerror}") from error


def judge(program: bytes) -> str:
    """Why a filter cannot be carried; empty when it can."""
    for code, _, _, k in INSTRUCTION.iter_unpack(program):
        if code == RETURN and k & ACTION == USER_NOTIFICATION:
            return "its seccomp filter asks another process (SECCOMP_RET_USER_NOTIF), which is not carried"
    return ""


def chain_to(entry: SeccompEntry, last: int) -> Chain:
    """Every filter up to `last`; ImageError when an index is out of range or the chain is none."""
    chain: list[int] = []
    index: int | None = last
    while index is not None:
        if index >= len(entry.seccomp_filters) or index in chain:
            raise ImageError("seccomp.img", f"filter {index} does not exist or comes after itself")
        chain.append(index)
        link = entry.seccomp_filters[index]
        index = link.prev if link.HasField("prev") else None
    return tuple(reversed(chain))


def is_used(cores: Sequence[ThreadCoreEntry]) -> bool:
    """True when any of the threads has seccomp on."""
    return any(core.seccomp_mode for core in cores)


def plan_all(entry: SeccompEntry, threads: Mapping[int, ThreadCoreEntry], leader: int) -> dict[int, Program]:
    """Install everything: thread → program; the leader's runs first. A leader that is to end is not among `threads`.

    What all threads have in common is installed once for all of them, so that the filters are shared as they were and a
    later SECCOMP_FILTER_FLAG_TSYNC of the program finds them so.
    """
    chains = {
        tid: chain_to(entry, core.seccomp_filter) if core.seccomp_mode == SECCOMP_FILTER else ()
        for tid, core in threads.items()
    }
    common = common_prefix(list(chains.values()))
    programs: dict[int, Program] = {}
    for tid, chain in chains.items():
        own = tuple(_install(entry, index, 0) for index in chain[len(common) :])
        strict = threads[tid].seccomp_mode == SECCOMP_STRICT
        programs[tid] = own + ((_plan_strict(),) if strict else ())
    flags = FLAG_TSYNC if len({*chains, leader}) > 1 else 0
    shared = tuple(_install(entry, index, flags) for index in common)
    return {**programs, leader: shared + programs.get(leader, ())}


def common_prefix(chains: Sequence[Chain]) -> Chain:
    """The filters with which every chain begins."""
    shortest = min(chains, key=len, default=())
    for length in range(len(shortest), 0, -1):
        if all(chain[:length] == shortest[:length] for chain in chains):
            return shortest[:length]
    return ()


def _install(entry: SeccompEntry, index: int, flags: int) -> Syscall:
    """Speculation is left alone here (SPEC_ALLOW): it is restored as what it was."""
    link = entry.seccomp_filters[index]
    program = Pointers((len(link.filter) // INSTRUCTION.size, link.filter))
    wanted = flags | FLAG_SPEC_ALLOW | (link.flags & FLAG_LOG)
    return Syscall("seccomp", (SET_MODE_FILTER, wanted, program), f"seccomp filter {index}")


def _plan_strict() -> Syscall:
    return Syscall("prctl", (PR_SET_SECCOMP, MODE_STRICT, 0, 0, 0), "strict seccomp")
