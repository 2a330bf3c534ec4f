"""In which cgroup (v2) a restored tree lives: where it was, else a scope of its own, never a login session's."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from core.errors import KernelLacks
from core.tracee.cgroup import cgroup2_mount

SESSION: Final = re.compile(r"/session-[^/]*\.scope(/|$)")
SCOPE: Final = re.compile(r"migrate-\d+\.scope")
LEAF: Final = re.compile(r"/migrate-[A-Za-z0-9_-]+\Z")  # that a migration which was killed left it in
NEW_S: Final = 60.0  # a scope that is younger may be empty because its tree is still being made


def find_home(path: str | None, pid: int) -> str:
    """Directory of the cgroup for the tree of `pid` that was in `path` (below the mount), made where there is none.

    A login session of that name is another one here: it is passed over. KernelLacks when no cgroup can be made.
    """
    mount = cgroup2_mount(Path("/proc/self/mountinfo").read_text())
    path = LEAF.sub("", path) if path is not None else None
    if path is not None and not SESSION.search(path) and os.path.isdir(mount + path):
        return os.path.normpath(mount + path)
    _sweep(mount)
    scope = os.path.join(mount, f"migrate-{pid}.scope")
    try:
        os.makedirs(scope, exist_ok=True)
    except OSError as error:
        raise KernelLacks("cgroup v2", f"{scope}: cannot be made: {error.strerror}") from error
    return scope


def leave_home(home: str) -> None:
    """Nothing came of the tree: remove its scope, if that is what it was to live in. Idempotent."""
    if SCOPE.fullmatch(os.path.basename(home)):
        with suppress(OSError):
            os.rmdir(home)


def _sweep(mount: str) -> None:
    """Remove the scopes whose trees have ended; one in which something lives stays by itself."""
    for scope in Path(mount).glob("migrate-*.scope"):
        with suppress(OSError):
            if time.time() - scope.stat().st_mtime > NEW_S:
                leave_home(str(scope))


@contextmanager
def born_at_home(path: str | None, pid: int) -> Iterator[tuple[int, list[str]]]:
    """A directory descriptor to be born into, and notices; -1: the cgroup of this very process. An error undoes it."""
    try:
        home = find_home(path, pid)
    except KernelLacks as error:
        yield -1, [f"it is in the cgroup of whoever restored it: {error.message}"]
        return
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd, []
    except BaseException:
        leave_home(home)
        raise
    finally:
        os.close(fd)
