"""What a running process has only now and then, or by its birth, and cannot take along: refused before the freeze."""

from pathlib import Path

import pytest

from core.preflight import PreflightOptions, collect_facts
from core.proc.reader import ProcReader
from core.resources import fanotify
from tests.requires import require_root
from tests.unit.preflight.targets import python
from tests.waiting import wait_until

PLAIN = PreflightOptions()


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def test_a_ring_of_io_setup_that_came_by_fork_is_refused(tmp_path: Path) -> None:
    script = (
        "context = ctypes.c_ulong(0)\nassert libc.syscall(206, 8, ctypes.byref(context)) == 0\n"
        "if not os.fork():\n    libc.prctl(1, signal.SIGKILL, 0, 0, 0)\n    signal.pause()"
    )
    with python(script, tmp_path) as pid:
        [child] = ProcReader().children(pid)
        wait_until(lambda: ProcReader().stat(child).state == "S", "the child waits")
        [found] = [one for one in collect_facts(pid, PLAIN).blockers if one.code.startswith("aio")]
        assert found.code == "aio-inherited" and f"pid {child}: " in found.subject


def test_events_of_fanotify_that_nobody_has_read_are_refused(tmp_path: Path) -> None:
    """FAN_CLASS_NOTIF, and FAN_OPEN of a file of its own."""
    script = (
        f"path = {str(tmp_path / 'watched')!r}\nopen(path, 'w').close()\ngroup = libc.fanotify_init(2, 0)\n"
        "libc.fanotify_mark(group, 1, ctypes.c_ulonglong(0x20), -100, path.encode())\nopen(path).close()"
    )
    with python(script, tmp_path) as pid:
        found = [one for one in collect_facts(pid, PLAIN).blockers if one.code == "fd-fanotify-unread"]
        assert [one.reason for one in found] == [fanotify.UNREAD]
