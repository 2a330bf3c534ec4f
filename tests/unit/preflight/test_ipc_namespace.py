"""A tree with an IPC namespace to itself: all in it goes along; who shares it from outside is named."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from core import DumpOptions, dump
from core.action_scripts import Action, ActionScripts
from core.errors import ImageError, Refused, RestoreError
from core.images import kinds
from core.images.pb.namespaces_pb2 import IpcVarEntry
from core.images.store import ImageSet
from core.kernel.calls import syscall
from core.kernel.ipc_namespace import in_ipc_namespace_of, in_new_ipc_namespace, with_us
from core.plan.segments import HOST_IPC, OWN_IPC, has_own_ipc, ipc_namespace
from core.preflight import PreflightOptions, TargetFindings, collect_facts
from core.proc.reader import ProcReader
from core.resources import process_tree
from core.resources.ipc_namespace import collect, made, settle
from core.resources.shared_memory import Segments
from tests.requires import require_root
from tests.unit.preflight.targets import python, running

IPC_CREAT, IPC_RMID = 0o1000, 0
UNSHARES = "assert libc.unshare(0x08000000) == 0"


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def look(pid: int) -> TargetFindings:
    return collect_facts(pid, PreflightOptions())


def ours() -> str:
    return os.readlink("/proc/thread-self/ns/ipc")


@contextmanager
def queue() -> Iterator[int]:
    """One in the namespace that this thread is in."""
    id = syscall("msgget", 0, IPC_CREAT | 0o600)
    try:
        yield id
    finally:
        with suppress(OSError):
            syscall("msgctl", id, IPC_RMID, 0)


def images_of(*namespaces: int) -> ImageSet:
    images = ImageSet()
    for pid, number in enumerate(namespaces, 100):
        images.add(kinds.IDS, process_tree.collect_ids(vm=1, files=1, fs=1, sighand=1, ipc=number), pid)
    return images


def test_everything_in_its_own_goes_along_and_has_not_to_be_free_over_there(tmp_path: Path) -> None:
    before = ours()
    make = f"{UNSHARES}; assert libc.msgget(0, 0o1600) >= 0; assert libc.shmget(0, 5 << 20, 0o1600) >= 0"
    with python(make, tmp_path) as pid:
        findings = look(pid)
        assert findings.blockers == ()
        assert findings.record.sysv == ()
        assert "ipc_namespace" in findings.record.kernel_needs
        assert any("IPC namespace" in notice for notice in findings.notices)
    assert ours() == before


def test_who_shares_it_from_outside_is_named(tmp_path: Path) -> None:
    with python(UNSHARES, tmp_path) as pid, ExitStack() as stack:
        with in_ipc_namespace_of(pid):
            other = stack.enter_context(running("/bin/sleep", "100", name="sleep"))
        (blocker,) = look(pid).blockers
    assert blocker.code == "ipc-shared" and f"{other} (sleep)" in blocker.reason


def test_a_segment_of_another_one_of_the_same_number_is_told_apart(tmp_path: Path) -> None:
    attach = "id = libc.shmget(0, 8192, 0o1600); libc.shmat(id, None, 0); libc.shmctl(id, 0, None)"
    same = "open('/proc/sys/kernel/shm_next_id', 'w').write(str(id)); assert libc.shmget(0, 8192, 0o1600) == id"
    with python(f"{attach}; {UNSHARES}; {same}", tmp_path) as pid:
        with pytest.raises(Refused, match="another IPC namespace"):
            dump(pid, tmp_path, DumpOptions())
        assert ProcReader().status(pid).tracer_pid == 0


def test_a_child_in_another_one_than_its_parent_is_refused_by_its_pid(tmp_path: Path) -> None:
    with python(f"child = os.fork()\nif not child:\n {UNSHARES}\n signal.pause()", tmp_path) as pid:
        reader = ProcReader()
        while not (children := reader.children(pid)) or with_us(children):
            pass
        try:
            (blocker,) = look(pid).blockers
        finally:
            os.kill(children[0], signal.SIGKILL)
    assert blocker.code == "namespace" and blocker.subject == f"pid {children[0]}" and "ipc" in blocker.reason


def test_a_thread_is_in_a_new_one_for_a_while_and_nobody_else_is() -> None:
    before = ours()
    with queue() as id, in_new_ipc_namespace():
        assert ours() != before
        assert id not in [one.id for one in ProcReader().message_queues()]
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(ours).result() == ours()  # whoever it starts is in there too
    assert ours() == before


def test_nobody_enters_the_namespace_of_one_that_has_ended() -> None:
    before = ours()
    with running("/bin/sleep", "100", name="sleep") as pid:
        pass
    with pytest.raises(ProcessLookupError), in_ipc_namespace_of(pid):
        pass
    assert ours() == before


def test_limits_come_back_and_what_a_host_does_not_allow_is_named() -> None:
    images = images_of(OWN_IPC, OWN_IPC)
    with in_new_ipc_namespace():
        for name, value in (("msgmnb", "12345"), ("sem", "100\t2000\t20\t50"), ("shm_rmid_forced", "1")):
            Path(f"/proc/sys/kernel/{name}").write_text(value)
        collect(images)
    with made(images) as own:
        assert own
        settle(images)
        assert Path("/proc/sys/kernel/msgmnb").read_text() == "12345\n"
        assert Path("/proc/sys/kernel/sem").read_text() == "100\t2000\t20\t50\n"
        assert Path("/proc/sys/kernel/shm_rmid_forced").read_text() == "1\n"
    assert Path("/proc/sys/kernel/msgmnb").read_text() != "12345\n"
    images.one(kinds.IPC_VAR, OWN_IPC).shm_rmid_forced = 7
    before = ours()
    with pytest.raises(RestoreError, match=r"kernel\.shm_rmid_forced=7"), made(images):
        settle(images)
    assert ours() == before


def test_what_it_made_before_it_lowered_a_limit_fits_into_the_new_one() -> None:
    images = images_of(OWN_IPC)
    with in_new_ipc_namespace():
        Path("/proc/sys/kernel/shmmax").write_text("4096")
        collect(images)
    with made(images):
        assert syscall("shmget", 0, 8192, IPC_CREAT | 0o600) >= 0
        settle(images)
        assert Path("/proc/sys/kernel/shmmax").read_text() == "4096\n"


def test_a_segment_that_would_go_with_our_look_is_left_alone_and_refused() -> None:
    with in_new_ipc_namespace():
        id = syscall("shmget", 0, 8192, IPC_CREAT | 0o600)
        Path("/proc/sys/kernel/shm_rmid_forced").write_text("1")
        segments = Segments(ProcReader())
        segments.own_ipc = True
        (blocker,) = segments.find_unattached()
        assert blocker.code == "shm-unattached" and str(id) in blocker.subject
        assert id in [one.id for one in ProcReader().sysv_segments()]


def test_action_scripts_run_where_we_came_from(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nreadlink /proc/self/ns/ipc > {tmp_path}/said\n")
    script.chmod(0o700)
    before = ours()
    with in_new_ipc_namespace():
        inside = ours()
        ActionScripts((str(script),)).run(Action.PRE_RESUME, 0)
        assert ours() == inside
    assert (tmp_path / "said").read_text().strip() == before


def test_a_tree_of_the_host_s_namespace_gets_no_other() -> None:
    before = ours()
    with made(images_of(HOST_IPC)) as own:
        assert not own and ours() == before


def test_images_of_several_namespaces_or_of_strange_limits_are_refused() -> None:
    with pytest.raises(ImageError, match="several IPC namespaces"):
        ipc_namespace(images_of(HOST_IPC, OWN_IPC))
    images = images_of(OWN_IPC)
    assert has_own_ipc(images)
    images.add(kinds.IPC_VAR, IpcVarEntry(
        sem_ctls=[1, 2], msg_ctlmax=1, msg_ctlmnb=1, msg_ctlmni=1, auto_msgmni=0, shm_ctlmax=1, shm_ctlall=1,
        shm_ctlmni=1, shm_rmid_forced=0, mq_queues_max=0, mq_msg_max=0, mq_msgsize_max=0,
    ), OWN_IPC)  # fmt: skip
    with pytest.raises(ImageError, match="limits of semaphores"), made(images):
        pass
