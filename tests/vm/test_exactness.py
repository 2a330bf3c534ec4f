"""Memory that is copied in rounds while programs store to it is the same to the byte in guests with soft-dirty bits.

The kernels that tests/roundtrip runs on have none. Huge pages (hugetlb) have none either: those are compared, as is all
shared memory. Pages that are the same are joined (KSM) as fast as the kernel can.
"""

import pytest

from tests.vm import Guest
from tests.vm.product import SHARE
from tests.vm.programs import COMMAND_S

pytestmark = pytest.mark.timeout(1800)

RUNS, SECONDS = "2", "10"
JOIN_PAGES = "cd /sys/kernel/mm/ksm && echo 1 > run && echo 5 > sleep_millisecs && echo 1000 > pages_to_scan"


@pytest.mark.parametrize(
    "words",
    [
        ["dirty_exact", "soft-dirty", RUNS, SECONDS, "dirty_stress"],
        ["shared_exact", "soft-dirty", "wild", RUNS, SECONDS, "shared_stress"],
        ["shared_exact", "soft-dirty", "drops", "1", SECONDS, "shared_stress"],
        ["shared_exact", "soft-dirty", "", "1", SECONDS, "huge_stress"],
        ["slow_writer", "auto", "private", "slow_writer"],
        ["slow_writer", "soft-dirty", "shared", "slow_writer"],
    ],
    ids=lambda words: f"{words[-1]}-{words[2]}",
)
def test_no_store_is_missed_where_bits_are_the_tracker(guests: tuple[Guest, Guest], words: list[str]) -> None:
    module, *arguments, program = words
    for guest in guests:
        guest.run(["sysctl", "-q", "-w", "vm.nr_overcommit_hugepages=64"])
        guest.run(["sh", "-c", JOIN_PAGES])
        command = ["env", f"PYTHONPATH={SHARE}/site", "python3", "-B", "-m", f"tests.roundtrip.{module}", *arguments]
        print(guest.output(*command, f"{SHARE}/exact/{program}", timeout_s=COMMAND_S))
