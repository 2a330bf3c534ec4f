"""Every function of a vDSO from another kernel leads to this kernel's, or to the system call."""

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Callable, Mapping

import pytest

from core.errors import ImageError, RestoreError
from core.kernel.calls import SYSCALLS, address_of
from core.vdso.layout import parse_symbols, read_vdso_layout
from core.vdso.proxy import jump, proxy_image, syscall_stub
from tests.unit.vdso.images import FOREIGN, IMAGES, own_places

BASE = own_places()["[vdso]"][0]
OURS = {name: BASE + offset for name, offset, _ in read_vdso_layout().symbols}
KERNELS = pytest.mark.parametrize("kernel", IMAGES)
TABLES = pytest.mark.parametrize("ours", [OURS, {}], ids=["this kernel's vDSO", "a vDSO without functions"])


class Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("fraction", ctypes.c_long))


class Code:
    """Code in memory of our own, callable by offset."""

    def __init__(self, code: bytes) -> None:
        self._memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._memory[:] = code

    def function(self, offset: int, *arguments: type) -> Callable[..., int]:
        address = address_of(memoryview(self._memory)) + offset
        return ctypes.CFUNCTYPE(ctypes.c_long, *arguments)(address)


def offset_of(image: bytes, name: str) -> int:
    return next(offset for found, offset, _ in parse_symbols(image) if found == name)


def proxied(kernel: str, ours: Mapping[str, int]) -> tuple[bytes, Code]:
    image = IMAGES[kernel]
    return image, Code(proxy_image(image, ours))


@KERNELS
@TABLES
def test_clock_gettime_tells_the_time(kernel: str, ours: dict[str, int]) -> None:
    image, code = proxied(kernel, ours)
    read = code.function(offset_of(image, "clock_gettime"), ctypes.c_int, ctypes.c_void_p)
    for clock in (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC_RAW, 6):
        now = Timespec()
        before = time.clock_gettime_ns(clock)
        assert read(clock, ctypes.addressof(now)) == 0
        assert before <= now.seconds * 10**9 + now.fraction <= time.clock_gettime_ns(clock)


@KERNELS
@TABLES
def test_gettimeofday_and_time_tell_the_time(kernel: str, ours: dict[str, int]) -> None:
    image, code = proxied(kernel, ours)
    now = Timespec()
    before = time.time_ns() // 1000
    assert (
        code.function(offset_of(image, "gettimeofday"), ctypes.c_void_p, ctypes.c_void_p)(ctypes.addressof(now), 0) == 0
    )
    assert before <= now.seconds * 10**6 + now.fraction <= time.time_ns() // 1000
    assert abs(code.function(offset_of(image, "time"), ctypes.c_void_p)(0) - time.time()) < 2


@KERNELS
@TABLES
def test_getcpu_and_clock_getres_answer(kernel: str, ours: dict[str, int]) -> None:
    image, code = proxied(kernel, ours)
    cpu, resolution = ctypes.c_uint(1 << 30), Timespec(7, 7)
    getcpu = code.function(offset_of(image, "getcpu"), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    assert getcpu(ctypes.addressof(cpu), 0, 0) == 0
    assert cpu.value in range(os.cpu_count() or 1)
    getres = code.function(offset_of(image, "clock_getres"), ctypes.c_int, ctypes.c_void_p)
    assert getres(time.CLOCK_MONOTONIC, ctypes.addressof(resolution)) == 0
    assert (resolution.seconds, resolution.fraction) == (0, 1)


@pytest.mark.parametrize("kernel", [kernel for kernel in IMAGES if kernel != "6.1"])
@TABLES
def test_getrandom_is_always_the_system_call(kernel: str, ours: dict[str, int]) -> None:
    image = IMAGES[kernel]
    if "getrandom" not in {name for name, _, _ in parse_symbols(image)}:
        assert kernel == "own"
        return
    code = Code(proxy_image(image, ours))
    word = ctypes.c_void_p
    getrandom = code.function(
        offset_of(image, "getrandom"), word, ctypes.c_size_t, ctypes.c_uint, word, ctypes.c_size_t
    )
    buffer = ctypes.create_string_buffer(64)
    state = ctypes.create_string_buffer(256)
    assert getrandom(ctypes.addressof(buffer), 64, 0, ctypes.addressof(state), 144) == 64
    assert any(buffer.raw) and not any(state.raw)
    assert getrandom(0, 0, 0, ctypes.addressof(state), ctypes.c_size_t(-1).value) == -errno.ENOSYS


def test_what_neither_side_knows_answers_enosys() -> None:
    image, code = proxied("6.1", {})
    enter = code.function(offset_of(image, "__vdso_sgx_enter_enclave"), ctypes.c_void_p)
    assert enter(0) == -errno.ENOSYS


@KERNELS
def test_only_the_beginnings_of_functions_change(kernel: str) -> None:
    image = IMAGES[kernel]
    after = proxy_image(image, OURS)
    longest = max(len(jump(0)), len(syscall_stub(SYSCALLS["getrandom"])))
    starts = [offset for _, offset, _ in parse_symbols(image)]
    changed = [index for index in range(len(image)) if image[index] != after[index]]
    assert changed and all(any(start <= index < start + longest for start in starts) for index in changed)


@KERNELS
def test_a_proxy_can_be_proxied_again(kernel: str) -> None:
    once = proxy_image(IMAGES[kernel], {name: address ^ 0x5000 for name, address in OURS.items()})
    assert proxy_image(once, OURS) == proxy_image(IMAGES[kernel], OURS)
    assert parse_symbols(once) == parse_symbols(IMAGES[kernel])


def test_a_function_too_short_for_a_jump_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.vdso.proxy.parse_symbols", lambda _image: (("time", 64, 11),))
    with pytest.raises(RestoreError, match="time has 11 bytes"):
        proxy_image(bytes(8192), OURS)


def test_a_function_outside_of_the_image_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.vdso.proxy.parse_symbols", lambda _image: (("time", 8180, 64),))
    with pytest.raises(ImageError, match="outside"):
        proxy_image(bytes(8192), OURS)


def test_the_images_are_of_three_kernels() -> None:
    assert len({parse_symbols(image) for image in FOREIGN.values()}) == len(FOREIGN)
