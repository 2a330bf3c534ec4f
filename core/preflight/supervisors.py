"""Who would start the target again when it is gone from here: that would be a second copy."""

import os
import subprocess
from typing import Final

from core.errors import Blocker
from core.proc.reader import CgroupPath, ProcReader

SYSTEMD_RUNTIME: Final = "/run/systemd/system"
SYSTEMCTL_TIMEOUT_S: Final = 5.0
# comm of the parent (cut by the kernel to 15 bytes) → what it is and how to make it let go
SUPERVISORS: Final = {
    "supervisord": ("supervisord", "set autorestart=false for it, then supervisorctl update"),
    "runsv": ("runit", "run `sv once SERVICE` before the migration"),
    "s6-supervise": ("s6", "run `s6-svc -o SERVICE_DIRECTORY` before the migration"),
    "supervise": ("daemontools", "run `svc -o SERVICE_DIRECTORY` before the migration"),
    "monit": ("monit", "run `monit unmonitor SERVICE` before the migration"),
    "containerd-shim": ("containerd or Docker", "containers are not carried yet; run the program outside of one"),
    "conmon": ("podman", "containers are not carried yet; run the program outside of one"),
    "docker-init": ("Docker", "containers are not carried yet; run the program outside of one"),
    "circusd": ("circus", "set respawn = False for it"),
    "PM2": ("pm2", "run it without pm2 for the migration"),
}


def find_supervisor(reader: ProcReader, pid: int, parent: int) -> Blocker | None:
    """The supervisor of `pid`, a child of `parent`, that would restart it; None when nobody would."""
    return by_parent(pid, parent, _comm(reader, parent)) or _find_systemd(pid, reader.cgroups(pid))


def by_parent(pid: int, parent: int, comm: str) -> Blocker | None:
    """By the parent's name. Pure."""
    for name, (what, hint) in SUPERVISORS.items():
        if comm == name[:15] or (name == "containerd-shim" and comm.startswith(name)) or comm.startswith(f"{name} "):
            reason = f"is supervised by {what} (pid {parent}), which would start it again here"
            return Blocker("supervisor", f"pid {pid}", reason, hint)
    return None


def _comm(reader: ProcReader, pid: int) -> str:
    try:
        return reader.comm(pid)
    except OSError:
        return ""


def _find_systemd(pid: int, cgroups: tuple[CgroupPath, ...]) -> Blocker | None:
    unit = systemd_unit(cgroups)
    if unit is None or not os.path.isdir(SYSTEMD_RUNTIME):
        return None
    return by_unit(pid, unit, _show(unit))


def systemd_unit(cgroups: tuple[CgroupPath, ...]) -> str | None:
    """The .service that a process belongs to by its cgroup (v2, or v1's name=systemd). Pure."""
    for cgroup in cgroups:
        if cgroup.hierarchy == 0 or "name=systemd" in cgroup.controllers:
            unit = next((part for part in reversed(cgroup.path.split("/")) if part.endswith(".service")), None)
            if unit and not unit.startswith("user@"):
                return unit
    return None


def by_unit(pid: int, unit: str, properties: dict[str, str]) -> Blocker | None:
    """By what systemd says of the unit. Pure."""
    restart = properties.get("Restart", "no")
    if restart == "no" or properties.get("MainPID", str(pid)) != str(pid):
        return None
    drop_in = f"{SYSTEMD_RUNTIME}/{unit}.d"
    hint = (
        f"mkdir -p {drop_in} && printf '[Service]\\nRestart=no\\n' > {drop_in}/migrate.conf && "
        "systemctl daemon-reload; remove the file to undo it"
    )
    reason = f"belongs to the systemd unit {unit} with Restart={restart}, which would start it again here"
    return Blocker("supervisor", f"pid {pid}", reason, hint)


def _show(unit: str) -> dict[str, str]:
    """Properties as systemctl tells them; none when it does not answer."""
    command = ["systemctl", "show", "-p", "Restart", "-p", "MainPID", "--", unit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMCTL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name: value for name, _, value in pairs}
