import mmap
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from core.images.pb.namespaces_pb2 import IpcDescEntry, IpcShmEntry
from core.kernel.calls import syscall
from core.kernel.ipc_namespace import in_new_ipc_namespace
from core.kernel.leftovers import Leftovers, adopt, sweep
from core.plan.segments import FIRST_ID, SegmentKind, SegmentSpec
from core.proc.reader import ProcReader
from core.resources.segment_store import SegmentStore
from tests.requires import require_root

ID, PAGE = 30011, 4096
IPC_RMID = 0


def killed_after(work: Callable[[], None]) -> None:
    """A child does `work` and is killed."""
    child = os.fork()
    if not child:
        try:
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        except BaseException:  # noqa: BLE001  # a forked child must not come back into pytest
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def wanted() -> dict[int, SegmentSpec]:
    entry = IpcShmEntry(desc=IpcDescEntry(key=0x6D677274, id=ID, mode=0o600), size=PAGE)
    return {FIRST_ID: SegmentSpec(FIRST_ID, SegmentKind.SYSV, PAGE, ID, sysv=entry)}


def make() -> SegmentStore:
    store = SegmentStore(lambda _: -1)
    store.make(wanted())
    return store


def there() -> bool:
    return any(one.id == ID for one in ProcReader().sysv_segments())


def give_up(store: SegmentStore) -> None:
    store.abandon()
    store.close()
    assert not there()


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def test_a_segment_that_a_killed_restore_left_behind_is_in_nobodys_way() -> None:
    killed_after(lambda: make() and None)
    assert there()
    give_up(make())


def test_a_segment_that_was_handed_over_stays() -> None:
    killed_after(lambda: make().commit())
    sweep()
    assert there()
    syscall("shmctl", ID, 0, 0)
    assert not there()


def test_a_segment_that_a_parked_copy_has_attached_stays_and_is_its_own_when_it_runs() -> None:
    killed_after(lambda: make() and None)
    address = syscall("shmat", ID, 0, 0)
    sweep()
    assert there()
    adopt()
    syscall("shmdt", address)
    sweep()
    assert there()
    syscall("shmctl", ID, 0, 0)


def test_a_file_that_was_left_behind_goes_and_another_of_its_name_does_not(tmp_path: Path) -> None:
    folder, ours, other = tmp_path / "made", tmp_path / "ours", tmp_path / "other"

    def work() -> None:
        made = Leftovers(folder)
        for path in (ours, other):
            with path.open("x") as file:
                made.note_file(str(path), file.fileno())

    killed_after(work)
    other.rename(tmp_path / "kept")
    other.write_text("another")
    sweep(folder)
    assert not ours.exists()
    assert other.exists()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("forced", [0, 1])
def test_a_segment_that_nobody_has_attached_is_there_until_it_is_given_up(forced: int) -> None:
    with in_new_ipc_namespace():
        Path("/proc/sys/kernel/shm_rmid_forced").write_text(str(forced))
        store = make()
        assert there()
        store.make({})
        assert not there()
        give_up(store)
        store = make()
        syscall("shmctl", ID, IPC_RMID, 0)  # by somebody else
        give_up(store)


@pytest.mark.parametrize("way", ["open", "mapped"])
def test_a_file_that_a_parked_copy_uses_stays(way: str, tmp_path: Path) -> None:
    folder, path = tmp_path / "made", tmp_path / "ours"

    def work() -> None:
        with path.open("x") as file:
            file.write("kept")
            file.flush()
            Leftovers(folder).note_file(str(path), file.fileno())

    killed_after(work)
    with path.open() as file:
        used = file if way == "open" else mmap.mmap(file.fileno(), 4, prot=mmap.PROT_READ)
        if way == "mapped":
            file.close()
        sweep(folder)
        assert path.exists() and list(folder.iterdir())
        used.close()
    sweep(folder)
    assert not path.exists() and not list(folder.iterdir())
