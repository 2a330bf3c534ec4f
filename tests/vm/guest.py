"""One guest: QEMU without KVM, ended whatever happens; commands run in it over ssh."""

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.vm.cache import Parts
from tests.waiting import wait_until

BOOT_S: Final = 300.0
MEMORY_MIB: Final = 640
APPEND: Final = (
    "console=ttyS0 root=/dev/nvme0n1 rw init=/sbin/vminit mitigations=off nokaslr quiet panic=-1 random.trust_cpu=on "
    "transparent_hugepage=madvise"
)
CRASHED: Final = re.compile(r"Oops|Kernel panic|double fault|BUG:")
CONSOLE_LINES: Final = 60


class Guest:
    """A booted kernel with the name `name`; its root file system is its own and forgotten at the end."""

    def __init__(
        self, parts: Parts, name: str, kernel: str, address: str, folder: Path, network: Sequence[str]
    ) -> None:
        self.name, self.kernel, self.address = name, kernel, address
        self._parts, self._folder, self._network = parts, folder, list(network)
        self._process: subprocess.Popen[bytes] | None = None
        self._console = folder / f"{name}.console"
        self._ssh = [
            *self._network, "ssh", "-F", str(Path(__file__).with_name("ssh_config")), "-i", str(parts.key),
            "-o", f"UserKnownHostsFile={parts.known_hosts}", "-o", "ControlMaster=auto", "-o", "ControlPersist=yes",
            "-o", f"ControlPath={folder}/{name}.ssh", f"root@{address}",
        ]  # fmt: skip

    def start(self, hosts: str, *, cpu: str, share: Path | None) -> None:
        """Begin to boot. `hosts`: ADDRESS:NAME, … of all; `share`: an ext4 image that it has at /srv/share."""
        emulator, environment = self._parts.emulator()
        append = f"{APPEND} vm.name={self.name} vm.address={self.address} vm.hosts={hosts}"
        number = self.address.rpartition(".")[2]
        argv = [
            *self._network, *emulator, "-nodefaults", "-nographic", "-no-reboot", "-M", "q35",
            "-accel", "tcg,thread=multi,tb-size=128", "-cpu", cpu, "-m", str(MEMORY_MIB), "-smp", "1",
            "-kernel", str(self._parts.kernel(self.kernel)), "-serial", f"file:{self._console}",
            "-drive", f"file={self._parts.root},if=none,id=d0,format=raw,snapshot=on,cache=unsafe",
            "-device", "nvme,serial=vm,drive=d0",
            "-netdev", f"tap,id=n0,ifname={self.tap},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:00:00:{int(number):02x},romfile=",
        ]  # fmt: skip
        if share:
            # Not on NVMe: kernels find two of its disks, or two of its namespaces, in any order.
            argv += ["-drive", f"file={share},if=none,id=d1,format=raw,readonly=on"]
            argv += ["-device", "virtio-blk-pci,drive=d1"]
            append += " vm.share=1"
        environment["TMPDIR"] = str(self._folder)
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv, "-append", append]
        with (self._folder / f"{self.name}.qemu").open("wb") as said:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, env=environment
            )

    @property
    def tap(self) -> str:
        """Its end of the network."""
        return f"tap-{self.name}"

    def wait_booted(self) -> None:
        """Returns when it takes commands; AssertionError with its console when it does not get that far."""
        try:
            for condition in (self._is_up, self._takes_commands):
                wait_until(condition, f"{self.name} takes commands", deadline_s=BOOT_S, pause_s=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.trouble()}") from None

    def _takes_commands(self) -> bool:
        if not self.runs:
            raise AssertionError(f"{self.name} ended while it booted")
        return self.run(["true"], timeout_s=BOOT_S, check=False).returncode == 0

    def _is_up(self) -> bool:
        return not self.runs or "vminit: ready" in self.console()

    @property
    def runs(self) -> bool:
        """Whether the emulator does."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_crashed(self) -> bool:
        """Whether its kernel says so."""
        return CRASHED.search(self.console()) is not None

    def console(self) -> str:
        """All that it has written there."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def trouble(self) -> str:
        """The end of its console, and what QEMU said."""
        said = self._folder / f"{self.name}.qemu"
        lines = [*self.console().splitlines()[-CONSOLE_LINES:], said.read_text() if said.exists() else ""]
        return "\n".join(f"  {self.name}| {line}" for line in lines)

    def run(
        self, argv: Sequence[str], *, timeout_s: float = 120, check: bool = True, input_text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end. One that does not end in time ends the guest, whose console is in the AssertionError."""
        try:
            done = subprocess.run(
                [*self._ssh, shlex.join(argv)], input=input_text, capture_output=True, text=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            self.close()
            raise AssertionError(f"{self.name}: {shlex.join(argv)}: not in {timeout_s} s\n{self.trouble()}") from error
        if check and done.returncode:
            raise AssertionError(
                f"{self.name} ({self.kernel}): {shlex.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
                + (self.trouble() if done.returncode == 255 or self.has_crashed else "")
            )
        return done

    def output(self, *argv: str, timeout_s: float = 120) -> str:
        """What a command writes, without the last newline."""
        return self.run(argv, timeout_s=timeout_s).stdout.rstrip("\n")

    def start_service(self, argv: Sequence[str]) -> int:
        """A program in a session of its own with no terminal, child of init; its PID."""
        script = f"setsid {shlex.join(argv)} </dev/null >/dev/null 2>&1 & echo $!"
        return int(self.output("sh", "-c", script))

    def wait(self, test: str, what: str, deadline_s: float = 120) -> None:
        """Until the shell says that `test` is true, asked inside in one call."""
        naps = int(deadline_s / 0.2)
        script = f"n=0; until {test}; do n=$((n+1)); [ $n -lt {naps} ] || exit 1; sleep 0.2; done"
        done = self.run(["sh", "-c", script], timeout_s=deadline_s * 4, check=False)
        if done.returncode:
            raise AssertionError(f"{self.name}: not within {deadline_s} s: {what}\n{done.stderr}{self.trouble()}")

    def close(self) -> None:
        """End it; may be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        control = self._folder / f"{self.name}.ssh"
        if control.exists():
            subprocess.run([*self._ssh[:-1], "-O", "exit", self._ssh[-1]], capture_output=True, timeout=60)
        control.unlink(missing_ok=True)  # ssh itself does so, in its own time
