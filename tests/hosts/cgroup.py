"""A cgroup (v2) per test host, so that whatever a move makes below it can be found and removed."""

import contextlib
import itertools
import os
from pathlib import Path

from tests.waiting import wait_until

PREFIX = "test-hosts"
_numbers = itertools.count()


def own_cgroup() -> Path | None:
    """Directory of this process's own v2 cgroup; None where no v2 hierarchy is mounted."""
    mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    top = next((fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"), None)
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    inside = next((line[3:] for line in lines if line.startswith("0::")), None)
    return Path(top + inside.rstrip("/")) if top is not None and inside is not None else None


def make_cgroup(host_name: str) -> Path | None:
    """A new cgroup below our own; None where that cannot be. Those of killed runs are removed on the way."""
    parent = own_cgroup()
    if parent is None:
        return None
    for stale in parent.glob(f"{PREFIX}-*"):
        if not Path(f"/proc/{stale.name.split('-')[2]}").exists():
            thaw(stale)  # its init then ends, and a later run finds it empty
            remove_tree(stale)
    made = parent / f"{PREFIX}-{os.getpid()}-{next(_numbers)}-{host_name}"
    try:
        made.mkdir()
    except OSError:
        return None
    return made


def thaw(top: Path) -> None:
    """Whoever froze it: a frozen init could not notice that it shall end."""
    with contextlib.suppress(OSError):
        (top / "cgroup.freeze").write_text("0")


def remove_tree(top: Path) -> bool:
    """Remove a cgroup with everything below; False while something still lives in it."""
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rmdir(folder)
            except OSError:
                return False
    return True


def remove_cgroup(top: Path) -> None:
    """Remove the cgroup of a host whose tasks have all been killed."""
    wait_until(lambda: remove_tree(top), f"{top} is empty")
