import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.pagesrv.filters import Compressor, Decompressor, RateLimit
from migrate.pagesrv.frames import Compression

NOISE = random.Random(1).randbytes(1 << 20)
TEXT = b"the same words again " * 50000


class Clock:
    """Time that only passes in sleep."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=100), st.integers(1000, 10**9))
def test_the_rate_holds_over_any_sizes_but_for_one_burst_and_the_last(sizes: list[int], bytes_per_s: int) -> None:
    clock = Clock()
    rate = RateLimit(bytes_per_s, clock, clock.sleep)
    for size in sizes:
        rate.wait_for(size)
    assert sum(sizes[:-1]) <= (clock.now - 100) * bytes_per_s * (1 + 1e-6) + bytes_per_s * 0.05 + 1


def test_no_limit_never_sleeps() -> None:
    clock = Clock()
    RateLimit(0, clock, clock.sleep).wait_for(1 << 40)
    assert clock.now == 100


def test_auto_sends_noise_plain_and_text_compressed() -> None:
    compressor = Compressor("auto")
    assert compressor.compress(memoryview(NOISE))[0] is Compression.NONE
    kind, stored = compressor.compress(memoryview(TEXT))
    assert kind is Compression.ZSTD and len(stored) < len(TEXT) / 10
    assert Decompressor().decompress(stored, len(TEXT)) == TEXT


def test_none_never_compresses_and_zstd_keeps_noise_plain() -> None:
    assert Compressor("none").compress(memoryview(TEXT))[0] is Compression.NONE
    assert Compressor("zstd").compress(memoryview(NOISE))[0] is Compression.NONE


@pytest.mark.parametrize("change", ["size", "flip", "cut", "extra"])
def test_a_bad_zstd_frame_is_a_value_error(change: str) -> None:
    stored = bytearray(Compressor("zstd").compress(memoryview(TEXT))[1])
    size = len(TEXT) + (change == "size")
    if change == "flip":
        stored[-1] ^= 1
    if change == "cut":
        del stored[-10:]
    if change == "extra":
        stored += b"more"
    with pytest.raises(ValueError):
        Decompressor().decompress(stored, size)
