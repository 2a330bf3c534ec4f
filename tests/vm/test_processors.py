"""Between processors and kernels: what has fewer registers and instructions is refused, what has more is gone to."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.vm import SUPPORTED_KERNELS, Guest, Lab
from tests.vm.lab import LA57_CPU
from tests.vm.programs import COMMAND_S, carry, make_anew, migrate, start

pytestmark = pytest.mark.timeout(1800)
# AVX without AVX2, protection keys or MPX: 832 bytes of registers where QEMU's largest processor has 2,696.
SMALL = "SandyBridge"


def test_a_smaller_processor_is_left_for_a_larger_one_and_refused_after(
    lab: Lab, share: Path, guests: tuple[Guest, Guest]
) -> None:
    old, _ = guests
    [small] = lab.boot({"vm-small": SUPPORTED_KERNELS[0]}, cpu=SMALL, share=share)
    with closing(small):
        program = start(small, "avx")
        migrate(program, small, old)
        make_anew(small, program.folder)
        said = old.run(["migrate", str(program.pid), f"root@{small.address}"], timeout_s=COMMAND_S, check=False)
        assert said.returncode == 3, said.stdout + said.stderr
        assert "avx2" in said.stderr and "PKU" in said.stderr
        program.check(old)


def test_memory_above_the_47_bit_line_goes_where_there_are_five_levels_of_page_tables(
    lab: Lab, share: Path, guests: tuple[Guest, Guest]
) -> None:
    old, _ = guests
    there, here = lab.boot(dict.fromkeys(("vm-five", "vm-fivetoo"), SUPPORTED_KERNELS[1]), cpu=LA57_CPU, share=share)
    with closing(here), closing(there):
        program = start(here, "memory_above_47")
        said = here.run(["migrate", str(program.pid), f"root@{old.address}"], timeout_s=COMMAND_S, check=False)
        assert said.returncode == 3 and "47-bit line" in said.stderr, said.stdout + said.stderr
        migrate(program, here, there)
        carry(program, there, here)
        assert "10000000000000-" in here.output("cat", f"/proc/{program.pid}/maps")
        program.check(here)


def test_a_larger_rseq_area_goes_to_a_kernel_that_takes_the_original_size_alone(guests: tuple[Guest, Guest]) -> None:
    old, new = guests
    program = start(new, "rseq_large")
    assert new.run(["test", "-e", f"{program.folder}/small"], check=False).returncode == 1
    carry(program, new, old)
    program.check(old)
