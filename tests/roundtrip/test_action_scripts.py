"""Action scripts are called at criu's moments with its environment; one that fails or hangs stops it all, cleanly."""

import os
from pathlib import Path

import pytest

from core import ActionScripts, DumpOptions, RestoreOptions, dump, restore
from core.errors import ScriptError
from tests.action_script import actions, calls, make_script
from tests.requires import require_root
from tests.roundtrip.targets import READER, ended_afterwards, is_traced, own_fds, ready
from tests.waiting import wait_until

PROGRAM = "signal_masks.c"
RESTORING = [
    "pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore", "network-unlock", "pre-resume",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def scripts(tmp_path: Path) -> ActionScripts:
    """Notes go to tmp_path."""
    return ActionScripts((make_script(tmp_path / "script", str(tmp_path)),), limit_s=30)


def test_they_are_called_in_order_with_criu_s_environment(tmp_path: Path, images: Path, scripts: ActionScripts) -> None:
    with ready(PROGRAM, tmp_path) as run:
        pid = run.pid
        dump(pid, images, DumpOptions(scripts=scripts))
        run.stop()
    dumping = calls(tmp_path)
    assert [call.action for call in dumping] == ["pre-dump", "network-lock", "post-dump"]
    assert {(call.images, call.pid) for call in dumping} == {(str(images), str(pid))}
    assert [call.state for call in dumping[1:]] == ["t", "t"] and dumping[0].state in "RS"
    with ended_afterwards(restore(images, RestoreOptions(scripts=scripts)).pid):
        restoring = calls(tmp_path)[len(dumping) :]
        assert [call.action for call in restoring] == [*RESTORING, "post-resume"]
        assert {call.images for call in restoring} == {str(images)}
        assert [call.pid for call in restoring] == ["-", *[str(pid)] * 6]
        assert {call.state for call in restoring[1:-1]} == {"t"} and restoring[-1].state in "RS"
        run.release()
        assert run.result() == "PASS"


def test_all_scripts_are_called_at_each_moment_in_their_order(tmp_path: Path, images: Path) -> None:
    notes = [tmp_path / "first", tmp_path / "second"]
    for folder in notes:
        folder.mkdir()
    files = tuple(make_script(folder / "script", str(folder)) for folder in notes)
    (notes[1] / "fail-network-lock").touch()
    with ready(PROGRAM, tmp_path) as run, pytest.raises(ScriptError, match="second"):
        dump(run.pid, images, DumpOptions(scripts=ActionScripts(files)))
    assert [actions(folder) for folder in notes] == [["pre-dump", "network-lock", "network-unlock"]] * 2


def test_the_network_is_unlocked_before_a_process_that_stays_runs_on(
    tmp_path: Path, images: Path, scripts: ActionScripts
) -> None:
    with ready(PROGRAM, tmp_path) as run:
        dump(run.pid, images, DumpOptions(leave_running=True, scripts=scripts))
        assert actions(tmp_path) == ["pre-dump", "network-lock", "post-dump", "network-unlock"]
        assert calls(tmp_path)[-1].state == "t"
        run.release()
        assert run.result() == "PASS"


@pytest.mark.parametrize("how", ["fail", "hang"])
@pytest.mark.parametrize("action", ["pre-dump", "network-lock", "post-dump"])
def test_a_dump_is_stopped_and_the_process_runs_on(action: str, how: str, tmp_path: Path, images: Path) -> None:
    script = make_script(tmp_path / "script", str(tmp_path))
    (tmp_path / f"{how}-{action}").touch()
    limit_s = 0.5 if how == "hang" else 30
    ours = own_fds()
    with ready(PROGRAM, tmp_path) as run:
        with pytest.raises(ScriptError) as caught:
            dump(run.pid, images, DumpOptions(scripts=ActionScripts((script,), limit_s=limit_s)))
        assert f"{script} ({action})" in caught.value.message
        if how == "hang":
            assert "did not end within 0.5 s" in caught.value.message
            hanging = int((tmp_path / "hanging").read_text())
            assert not READER.exists(hanging)
        else:
            assert "ended with 7" in caught.value.message and "the disk is full" in (caught.value.hint or "")
        assert not is_traced(run.pid) and READER.status(run.pid).state in "RS"
        assert own_fds() == ours
        assert (actions(tmp_path)[-1] == "network-unlock") == (action != "pre-dump")
        run.release()
        assert run.result() == "PASS"


@pytest.mark.parametrize("action", RESTORING)
def test_a_restore_is_stopped_and_nothing_of_it_stays(
    action: str, tmp_path: Path, images: Path, scripts: ActionScripts
) -> None:
    with ready(PROGRAM, tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()
    (tmp_path / f"fail-{action}").touch()
    ours = own_fds()
    with pytest.raises(ScriptError, match=action):
        restore(images, RestoreOptions(scripts=scripts))
    assert actions(tmp_path) == RESTORING[: RESTORING.index(action) + 1]
    assert not READER.exists(run.pid) and own_fds() == ours
    with pytest.raises(ChildProcessError):
        os.waitpid(run.pid, os.WNOHANG)
    with ended_afterwards(restore(images, RestoreOptions()).pid):
        run.release()
        assert run.result() == "PASS"


def test_a_script_that_fails_after_the_resume_is_a_notice(tmp_path: Path, images: Path, scripts: ActionScripts) -> None:
    with ready(PROGRAM, tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()
    (tmp_path / "fail-post-resume").touch()
    report = restore(images, RestoreOptions(scripts=scripts))
    with ended_afterwards(report.pid):
        assert any("post-resume" in notice and "ended with 7" in notice for notice in report.notices)
        run.release()
        assert run.result() == "PASS"


def test_a_script_may_leave_something_running(tmp_path: Path, images: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nsleep 1000 & echo $! >>{tmp_path}/left\n")
    script.chmod(0o755)
    with ready(PROGRAM, tmp_path) as run:
        dump(run.pid, images, DumpOptions(leave_running=True, scripts=ActionScripts((str(script),))))
        run.release()
        assert run.result() == "PASS"
    left = [int(line) for line in (tmp_path / "left").read_text().split()]
    assert len(left) == 4
    for pid in left:
        os.kill(pid, 9)
        wait_until(lambda pid=pid: not READER.exists(pid) or READER.stat(pid).state == "Z", "it is gone")  # type: ignore[misc]
