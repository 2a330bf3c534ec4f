"""From the kernels of guests to the one that this machine runs, into a host that is a set of namespaces."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.hosts import Host
from tests.hosts.host import HOME
from tests.hosts.lab import files_of, link_command
from tests.hosts.ssh import make_key
from tests.vm import SUPPORTED_KERNELS, Guest, Lab
from tests.vm.product import SHARE
from tests.vm.programs import COMMAND_S, PATIENT, PROGRAM_S, name_of, start
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(1800)
SMALL = "SandyBridge"  # whatever it has, this machine's processor has too
PROGRAM = "vdso_time-static"
LAST_CAPABILITY = 40  # of 6.1


@pytest.mark.parametrize("kernel", SUPPORTED_KERNELS)
def test_a_program_goes_from_a_guests_kernel_to_this_machines(lab: Lab, share: Path, kernel: str) -> None:
    """One that asks the vDSO all the time; the machine's is another."""
    [guest] = lab.boot({f"vm-{kernel}": kernel}, cpu=SMALL, share=share)
    with closing(guest), this_machine(lab, guest, share) as host:
        program = start(guest, PROGRAM, by=("setpriv", "--bounding-set", bounding_set()))
        folder = host.path(program.folder)
        folder.mkdir()
        guest.run(["migrate", str(program.pid), f"root@{host.address}", *PATIENT], timeout_s=COMMAND_S)
        assert not name_of(program.pid, guest)
        assert host.alive(program.pid)
        (folder / "go").touch()
        result = folder / "result"
        wait_until(result.exists, f"{PROGRAM} has its result", deadline_s=PROGRAM_S)
        assert result.read_text() == "PASS"


def bounding_set() -> str:
    """What root has here, in setpriv(1)'s words: who has more in the guest would be refused."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd"))
    ours = int(line.split()[1], 16)
    return ",".join(["+all", *(f"-cap_{number}" for number in range(LAST_CAPABILITY + 1) if not ours >> number & 1)])


@contextmanager
def this_machine(lab: Lab, guest: Guest, share: Path) -> Iterator[Host]:
    """A host of namespaces on the lab's bridge that `guest` knows, and may log in to."""
    name = f"to-{guest.name}"
    files = files_of(name, {}) | {f"{HOME}/.ssh/authorized_keys": guest.output("cat", "/root/.ssh/authorized_keys")}
    host = Host(name, files=files, binds={SHARE: str(share)})
    try:
        host.address = lab.admit(name, host.init_pid)
        host.configure_network("link set lo up", f"addr add {host.address}/24 dev lab0", "link set lab0 up")
        link_command(host)
        host.start_sshd()
        known = f"{host.address} {make_key(name).public}"
        guest.run(["sh", "-c", "cat >>/root/.ssh/known_hosts"], input_text=known)
        yield host
    finally:
        host.close()
