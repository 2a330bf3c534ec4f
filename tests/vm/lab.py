"""Guests on one bridge, in a network namespace of their own; nothing is made in the machine's network."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.vm.cache import get_parts
from tests.vm.guest import Guest
from tests.vm.packages import command
from tests.waiting import wait_until

NETWORK = "10.78.0."
OUTSIDE = 254
CPU, LA57_CPU = "max,la57=off", "max"


class Lab:
    """A bridge, and who is on it. Leaving the `with` block of make_lab ends all of it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._guests: dict[str, str] = {}  # name → address
        self._shares: dict[Path, Path] = {}
        self._parts = get_parts()
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sleep", "infinity"]
        )
        stack.callback(self._end_holder)
        own = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != own, "a network of its own")
        self._inside = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]
        self.configure("link set lo up", "link add br0 type bridge", f"addr add {NETWORK}{OUTSIDE}/24 dev br0",
                       "link set br0 up")  # fmt: skip

    def _end_holder(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def configure(self, *lines: str) -> None:
        """Lines for ip(8)."""
        command([*self._inside, "ip", "-batch", "-"], input_text="\n".join(lines) + "\n", timeout_s=60)

    def boot(self, kernels: dict[str, str], *, cpu: str = CPU, share: Path | None = None) -> list[Guest]:
        """Guests by name with the kernels they run, all taking commands; they know those before by name, too.

        `cpu`: QEMU's model; `share`: a directory that they have at /srv/share, as it is now.

        A kernel that crashes while it boots is tried once more, and that is printed: QEMU may be to blame.
        """
        for name in kernels:
            self._guests[name] = self._next_address()
        hosts = ",".join(f"{address}:{name}" for name, address in self._guests.items())
        image = self._pack(share) if share else None
        guests = []
        for name, kernel in kernels.items():
            guest = Guest(self._parts, name, kernel, self._guests[name], self._folder, self._inside)
            self._stack.callback(guest.close)
            self.configure(f"tuntap add {guest.tap} mode tap", f"link set {guest.tap} master br0 up")
            guest.start(hosts, cpu=cpu, share=image)
            guests.append(guest)
        for guest in guests:
            self._finish(guest, hosts, cpu, image)
        return guests

    def admit(self, name: str, pid: int) -> str:
        """Put the network namespace of process `pid` on the bridge, by its link `lab0`; the address it is to have."""
        address = self._guests[name] = self._next_address()
        link = f"tap-{name}"
        self.configure(f"link add {link} type veth peer name lab0 netns {pid}", f"link set {link} master br0 up")
        return address

    def _next_address(self) -> str:
        return f"{NETWORK}{len(self._guests) + 1}"

    def _finish(self, guest: Guest, hosts: str, cpu: str, image: Path | None) -> None:
        try:
            guest.wait_booted()
        except AssertionError as error:
            if not guest.has_crashed:
                raise
            print(f"{guest.name}: crashed while it booted, tried again:\n{error}")
            guest.close()
            guest.start(hosts, cpu=cpu, share=image)
            guest.wait_booted()

    def _pack(self, share: Path) -> Path:
        """A directory as a small file system that guests only read."""
        image = self._shares.setdefault(share, self._folder / f"share-{len(self._shares)}.img")
        if image.exists():
            return image
        size = sum(path.stat().st_size for path in share.rglob("*") if path.is_file())
        command(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(share), str(image),
                 f"{size * 3 // 2 // 1024 + 16384}k"])  # fmt: skip
        return image


@contextmanager
def make_lab() -> Iterator[Lab]:
    """An empty bridge; whatever is put on it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="migrate-vm-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Lab(folder, stack)


def run(argv: Sequence[str], kernel: str, *, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """One command on one kernel, in a guest of its own; a failure is an AssertionError."""
    with make_lab() as lab:
        [guest] = lab.boot({"vm": kernel})
        return guest.run(argv, timeout_s=timeout_s)
