"""A machine whose PID 1 is systemd: namespaces over this one, with /etc, /run, /var/lib and /var/log of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.cgroup import make_cgroup, remove_cgroup
from tests.hosts.host import REPOSITORY, ns_pid
from tests.requires import require
from tests.waiting import wait_until

SYSTEMD = "/lib/systemd/systemd"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": SEARCH_PATH, "HOME": "/run/root", "LANG": "C.UTF-8"}
# Arguments: the cgroup that is its whole hierarchy, then directories that stay visible. Units that would set up this
# machine (its sysctls, its /tmp, what /etc/fstab names) are left out.
BOOT = f"""\
echo $$ >"$1/cgroup.procs"
shift
exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -ec '
	mount --make-rprivate /
	mount -t proc proc /proc
	mount -t tmpfs -o mode=755 tmpfs /run
	for kept do mkdir -p "/run/kept$kept" && mount --bind "$kept" "/run/kept$kept"; done
	for place in /tmp /var/tmp /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs $place; done
	for kept do mkdir -p "$kept" && mount --bind "/run/kept$kept" "$kept"; done
	mkdir -p /run/root /run/over/etc /run/over/work
	mount -t overlay -o lowerdir=/etc,upperdir=/run/over/etc,workdir=/run/over/work overlay /etc
	for place in /etc/systemd/system /lib/systemd/system-generators /lib/systemd/system/*.target.wants; do
		mount -t tmpfs -o mode=755 tmpfs $place
	done
	umount -R /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	ip link set lo up
	exec env -i container=lxc {SYSTEMD} --system --unit=basic.target --show-status=0
' boot "$@"
"""


@dataclass(frozen=True, slots=True)
class Booted:
    """Its PID 1, as the machine counts, and the cgroup that is its hierarchy."""

    init_pid: int
    cgroup: Path

    def run(self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 300) -> str:
        """What it writes; a failure is an AssertionError that shows it."""
        enter = ["nsenter", "-t", str(self.init_pid), "-m", "-p", "-n", "-u", "-i", "-C", "--", *argv]
        done = subprocess.run(enter, capture_output=True, text=True, timeout=timeout_s, env=ENVIRONMENT, cwd="/")
        assert done.returncode == 0 or not check, f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def machine_pid(self, unit: str) -> int:
        """The main process of a unit, as the machine counts."""
        inside = int(self.run(["systemctl", "show", "-P", "MainPID", unit]))
        pids = (self.cgroup / f"system.slice/{unit}/cgroup.procs").read_text().split()
        return next(int(pid) for pid in pids if ns_pid(Path(f"/proc/{pid}")) == inside)


@contextmanager
def boot(name: str, folder: Path) -> Iterator[Booted]:
    """Up to basic.target, with `folder` as it is here; everything in it ends with the `with` block."""
    require(os.path.exists(SYSTEMD), "systemd")
    cgroup = make_cgroup(name)
    require(cgroup is not None, "cgroup v2")
    assert cgroup is not None
    launcher = subprocess.Popen(
        ["sh", "-ec", BOOT, "boot", str(cgroup), str(folder), str(REPOSITORY)], stdin=subprocess.DEVNULL
    )
    try:
        init_pid = wait_until(lambda: _init_of(launcher), f"{name}: its systemd runs", deadline_s=30)
        booted = Booted(init_pid, cgroup)
        state = ["systemctl", "is-system-running"]
        settled = ("running", "degraded")
        wait_until(lambda: booted.run(state, check=False).strip() in settled, f"{name} is up", deadline_s=60)
        yield booted
    finally:
        launcher.send_signal(signal.SIGTERM)  # unshare's child dies with it
        launcher.kill()
        launcher.wait()
        remove_cgroup(cgroup)


def _init_of(launcher: "subprocess.Popen[bytes]") -> int:
    assert launcher.poll() is None, "it ended"
    with open(f"/proc/{launcher.pid}/task/{launcher.pid}/children") as file:
        for pid in file.read().split():
            if os.readlink(f"/proc/{pid}/exe").startswith(os.path.realpath(SYSTEMD)):
                return int(pid)
    return 0
