"""What a stop does to a thread's registers, taken back: EINTR, and restart_syscall under its own name."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from core.errors import TraceeError
from core.kernel.calls import SYSCALLS
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.tracee.cut_short import is_cut_short
from core.tracee.freezer import undisturbed
from core.tracee.restarted import under_its_own_name
from core.tracee.sigframe import rewound
from tests.unit.tracee.states import MINUS_ONE, registers_with, state_with

CODE = 0x400000
POINTER = 0x7F0000001000


def status_with(pending: int = 0, shared: int = 0, blocked: int = 0) -> Status:
    return replace(ProcReader().status("self"), sig_pending=pending, shared_pending=shared, blocked=blocked)  # type: ignore[arg-type]  # "self" is as good as a number


def test_eintr_of_a_stop_is_made_again() -> None:
    state = state_with(orig_ax=232, ax=-4, ip=CODE + 2)
    again = undisturbed(state, status_with()).registers
    assert (again.ax, again.ip, again.orig_ax) == (-514 & MINUS_ONE, CODE + 2, 232)
    assert (rewound(again).ax, rewound(again).ip, rewound(again).orig_ax) == (232, CODE, MINUS_ONE)


@pytest.mark.parametrize("where", ["pending", "shared"])
def test_eintr_stays_when_a_signal_is_due(where: str) -> None:
    state = state_with(orig_ax=232, ax=-4, ip=CODE + 2)
    assert undisturbed(state, status_with(**{where: 1 << 14})) is state


def test_a_blocked_signal_is_not_due() -> None:
    state = state_with(orig_ax=232, ax=-4, ip=CODE + 2)
    assert undisturbed(state, status_with(pending=1 << 14, blocked=1 << 14)) is not state


@pytest.mark.parametrize(("orig_ax", "ax"), [(-1, -4), (3, -4), (232, 0), (232, -512), (35, -516)])
def test_other_threads_are_left_alone(orig_ax: int, ax: int) -> None:
    state = state_with(orig_ax=orig_ax, ax=ax)
    assert undisturbed(state, status_with()) is state


def code(before: bytes) -> Callable[[int, int], bytes]:
    """Memory with `before` and a syscall instruction at CODE."""
    content = before.rjust(64, b"\x90") + b"\x0f\x05\xc3"

    def read(address: int, size: int) -> bytes:
        return content[address - CODE + 64 :][:size]

    return read


def no_code(address: int, size: int) -> bytes:
    raise TraceeError(1, "cannot be read")


@pytest.mark.parametrize("name", ["poll", "nanosleep", "futex", "clock_nanosleep"])
def test_a_restarted_call_gets_the_number_that_the_code_loads(name: str) -> None:
    stopped = registers_with(orig_ax=219, ax=-516, ip=CODE + 2)
    before = b"\xb8" + struct.pack("<I", SYSCALLS[name]) + b"\x48\x89\xdf"
    assert under_its_own_name(stopped, code(before)) == stopped._replace(orig_ax=SYSCALLS[name])


def test_the_nearest_number_counts() -> None:
    loads = [b"\xb8" + struct.pack("<I", SYSCALLS[name]) for name in ("nanosleep", "poll")]
    stopped = registers_with(orig_ax=219, ax=-516, ip=CODE + 2)
    assert under_its_own_name(stopped, code(b"".join(loads))).orig_ax == SYSCALLS["poll"]
    assert under_its_own_name(stopped, code(b"".join(reversed(loads)))).orig_ax == SYSCALLS["nanosleep"]


TIME = struct.pack("<qq", 3, 500)
WORD = POINTER + 0x100  # of a futex: 7
POLLFD = POINTER + 0x200
CALLER = POINTER + 0x300
SYSCALL_3 = bytes.fromhex("4889f8 4889f7 4889d6 4889ca 4d89c2 4d89c8 4c8b4c2408")


def with_memory(read_code: Callable[[int, int], bytes], caller: bytes = b"") -> Callable[[int, int], bytes]:
    """Memory with a time at POINTER, a futex, a struct pollfd, and code that called what has its stack there too."""
    content = bytearray(0x400)
    content[: len(TIME)] = TIME
    content[0x100:0x104] = struct.pack("<I", 7)
    content[0x200:0x208] = struct.pack("<ihh", 4, 1, 0)
    content[0x300 - len(caller) : 0x300] = caller
    content[0x380:0x388] = struct.pack("<Q", CALLER)

    def read(address: int, size: int) -> bytes:
        if POINTER <= address <= POINTER + len(content) - size:
            return bytes(content[address - POINTER :][:size])
        return read_code(address, size) if CODE - 64 <= address < CODE + 3 else no_code(address, size)

    return read


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clock_nanosleep", {"di": 1, "si": 0, "dx": POINTER, "r10": 0}),
        ("clock_nanosleep", {"di": (-6 << 3 | 2) & 0xFFFFFFFF, "si": 0, "dx": POINTER, "r10": 0}),
        ("nanosleep", {"di": POINTER, "si": 0, "dx": 5, "r10": 7}),
        ("nanosleep", {"di": POINTER, "si": 0, "dx": 5, "r10": POINTER}),
        ("nanosleep", {"di": POINTER, "si": POINTER}),
        ("nanosleep", {"di": WORD, "si": 0, "dx": 0}),
        ("futex", {"di": WORD, "si": 128, "dx": 0, "r10": POINTER}),
        ("futex", {"di": WORD, "si": 137, "dx": 2, "r10": POINTER}),
        ("futex", {"di": WORD, "si": 0, "dx": 7, "r10": POINTER}),
        ("poll", {"di": POLLFD, "si": 3, "dx": 1000}),
        ("poll", {"di": POLLFD, "si": 9, "dx": 1000, "r10": WORD + 8}),
        ("poll", {"di": POLLFD, "si": 0, "dx": 1000}),
        ("poll", {"di": 0, "si": 0, "dx": 30}),
        ("poll", {"di": 0, "si": 0, "dx": 3600000}),
    ],
)
@pytest.mark.parametrize("read_code", [code(b"\x48\x89\xf8"), no_code])
def test_where_no_code_loads_the_number_the_arguments_tell(
    name: str, arguments: dict[str, int], read_code: Callable[[int, int], bytes]
) -> None:
    stopped = registers_with(orig_ax=219, ax=-516, ip=CODE + 2, **arguments)
    assert under_its_own_name(stopped, with_memory(read_code)).orig_ax == SYSCALLS[name]


@pytest.mark.parametrize(("said", "name"), [("poll", "poll"), ("nanosleep", "nanosleep"), ("futex", "nanosleep")])
def test_through_syscall_3_its_caller_tells_the_number_if_the_arguments_fit(said: str, name: str) -> None:
    """poll(fds, 9, 30) and nanosleep(time, NULL) may look alike."""
    caller = b"\xbf" + struct.pack("<I", SYSCALLS[said]) + b"\x31\xc0\xe8\0\0\0\0"
    stopped = registers_with(orig_ax=219, ax=-516, ip=CODE + 2, sp=POINTER + 0x380, di=POINTER, si=0, dx=30, r10=0)
    assert under_its_own_name(stopped, with_memory(code(SYSCALL_3), caller)).orig_ax == SYSCALLS[name]


def test_a_thread_about_to_restart_makes_its_call_anew() -> None:
    stopped = registers_with(orig_ax=35, ax=219, ip=CODE)
    found = under_its_own_name(stopped, code(b"\xb8\x23\x00\x00\x00"))
    assert (found.ax, found.orig_ax, found.ip) == (35, MINUS_ONE, CODE)


@pytest.mark.parametrize("values", [{"ax": 219, "orig_ax": -1, "ip": CODE + 8}, {"ax": -516, "orig_ax": 35}])
def test_what_is_no_restart_is_left_alone(values: dict[str, int]) -> None:
    stopped = registers_with(**values)
    assert under_its_own_name(stopped, code(b"")) == stopped


@pytest.mark.parametrize(
    ("values", "cut_short"),
    [
        ({"orig_ax": 299, "ax": 2, "dx": 4, "r10": 0}, True),
        ({"orig_ax": 299, "ax": 4, "dx": 4, "r10": 0}, False),
        ({"orig_ax": 299, "ax": -512, "dx": 4, "r10": 0}, False),
        ({"orig_ax": 299, "ax": 2, "dx": 4, "r10": 0x10000}, False),
        ({"orig_ax": 299, "ax": 2, "dx": 4, "r10": 0x40}, False),
        ({"orig_ax": 45, "ax": 2, "dx": 4, "r10": 0}, False),
    ],
)
def test_only_a_recvmmsg_that_waited_for_more_is_cut_short(values: dict[str, int], cut_short: bool) -> None:
    assert is_cut_short(registers_with(**values)) == cut_short
