"""Thread states for tests, each register recognisable."""

from core.kernel.threads import REGISTER_NAMES, Registers, Rseq, ThreadState
from core.kernel.xsave import area_size, xcr0

MINUS_ONE = (1 << 64) - 1


def registers_with(**values: int) -> Registers:
    """Registers numbered from 0x1000 on, but for `values` (negative ones as the kernel has them)."""
    numbered = {name: 0x1000 + index for index, name in enumerate(REGISTER_NAMES)}
    return Registers(**{**numbered, **{name: value & MINUS_ONE for name, value in values.items()}})


def state_with(sigmask: int = 0, xstate: bytes | None = None, **values: int) -> ThreadState:
    """A thread with these registers."""
    area = bytes(area_size(xcr0())) if xstate is None else xstate
    return ThreadState(1, registers_with(**values), area, sigmask, Rseq(0, 0, 0, 0), (0, 0))
