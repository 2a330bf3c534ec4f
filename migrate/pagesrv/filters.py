"""What happens to a batch of pages between memory and wire: compression and rate. Zero pages are taken out by core.

Each part is small and knows nothing of frames or descriptors.
"""

from collections.abc import Callable
from typing import Final, Literal

import zstandard

from core import Buffer
from migrate.pagesrv.frames import Compression

CompressMode = Literal["auto", "zstd", "none"]

LEVEL: Final = 1
SAMPLES: Final = 4
SAMPLE_BYTES: Final = 4096
WORTH_IT: Final = 0.9  # compressed / plain above which a batch goes plain


class Compressor:
    """zstd level 1. "auto" tries a few samples first: what does not shrink is not worth the time."""

    def __init__(self, mode: CompressMode) -> None:
        self._mode = mode
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)

    def compress(self, memory: memoryview) -> tuple[Compression, Buffer]:
        """How the pages are stored, and the bytes."""
        if self._mode == "none" or (self._mode == "auto" and not self.is_compressible(memory)):
            return Compression.NONE, memory
        stored = self._zstd.compress(memory)
        if len(stored) >= len(memory):
            return Compression.NONE, memory
        return Compression.ZSTD, stored

    def is_compressible(self, memory: memoryview) -> bool:
        """By samples spread over the batch."""
        if len(memory) <= SAMPLES * SAMPLE_BYTES:
            return True
        step = len(memory) // SAMPLES
        sample = b"".join(memory[at : at + SAMPLE_BYTES] for at in range(0, step * SAMPLES, step))
        return len(self._zstd.compress(sample)) < len(sample) * WORTH_IT


class Decompressor:
    """One zstd frame of known size back to pages."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def decompress(self, stored: Buffer, raw_size: int) -> bytes:
        """The `raw_size` bytes. ValueError says what is wrong; never allocates more than that."""
        try:
            parameters = zstandard.get_frame_parameters(stored)
            if parameters.content_size != raw_size or not parameters.has_checksum:
                raise ValueError("zstd frame of another size or without a checksum")
            return self._zstd.decompress(stored, max_output_size=raw_size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error


class RateLimit:
    """A token bucket: at most `bytes_per_s` over time, `burst_s` seconds' worth at once. 0 is no limit."""

    def __init__(
        self, bytes_per_s: float, clock: Callable[[], float], sleep: Callable[[float], None], *, burst_s: float = 0.05
    ) -> None:
        self._rate = bytes_per_s
        self._burst = bytes_per_s * burst_s
        self._tokens = self._burst
        self._clock = clock
        self._sleep = sleep
        self._seen = clock()

    def wait_for(self, size: int) -> None:
        """Return when `size` bytes may go; a debt is paid before, so that big frames pass whole."""
        if not self._rate:
            return
        self._refill()
        if self._tokens < 0:
            self._sleep(-self._tokens / self._rate)
            self._refill()
        self._tokens -= size

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
