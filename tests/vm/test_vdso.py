"""Programs that ask the vDSO all the time go from kernel to kernel and see a time that never runs back."""

import pytest

from tests.vm import Guest
from tests.vm.programs import Started, carry, migrate, start

pytestmark = pytest.mark.timeout(1800)


def test_dynamic_and_static_programs_go_to_the_newer_kernel_live(guests: tuple[Guest, Guest]) -> None:
    old, new = guests
    for name in ("vdso_time", "vdso_time-static"):
        program = start(old, name)
        migrate(program, old, new)
        program.check(new)


def test_three_moves_in_a_row_there_and_back_and_there(guests: tuple[Guest, Guest]) -> None:
    old, new = guests
    program = start(old, "vdso_symbols")
    ehdr = sysinfo(old, program)
    for here, there in ((old, new), (new, old), (old, new)):
        carry(program, here, there)
        assert sysinfo(there, program) == ehdr
    program.check(new)


def sysinfo(guest: Guest, program: Started) -> str:
    """AT_SYSINFO_EHDR, in hexadecimal."""
    words = guest.output("od", "-A", "n", "-t", "x8", "-v", "-w16", f"/proc/{program.pid}/auxv").splitlines()
    return next(value for kind, value in (line.split() for line in words) if int(kind, 16) == 33)
