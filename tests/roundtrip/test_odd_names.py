"""Names are bytes: what is no text is carried or refused by name, and never a traceback."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from core.errors import CollectError, MigrateError, Refused
from core.plan.ops import Syscall
from core.prepare import prepare
from core.tracee.freezer import freeze
from core.tracee.lender import borrow, find_lender
from tests.program_build import ENVIRONMENT
from tests.requires import require_root
from tests.roundtrip.targets import READER, ended_afterwards, look_at, ready

ODD = b"odd \xff name"


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def in_directory(directory: bytes) -> Callable[[list[str]], "subprocess.Popen[bytes]"]:
    """Start a program there."""

    def start(argv: list[str]) -> "subprocess.Popen[bytes]":
        null = subprocess.DEVNULL
        return subprocess.Popen(
            argv, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd=directory, env=ENVIRONMENT
        )

    return start


def from_copy(copy: bytes) -> Callable[[list[str]], "subprocess.Popen[bytes]"]:
    """Start a copy of a program."""

    def start(argv: list[str]) -> "subprocess.Popen[bytes]":
        shutil.copy(argv[0], copy)
        null = subprocess.DEVNULL
        words = [copy, *(os.fsencode(word) for word in argv[1:])]
        return subprocess.Popen(
            words, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/", env=ENVIRONMENT
        )

    return start


def give_name(pid: int, name: bytes) -> None:
    """Let the process call itself so."""
    op = Syscall("prctl", (15, name + b"\0", 0, 0, 0), "PR_SET_NAME")
    with prepare(pid, READER) as prepared, freeze(pid, READER) as frozen:
        lender = find_lender(
            prepared.memory, READER.maps(pid), frozen.threads, READER.status(pid), own_ids={}, gadgets=prepared.gadgets
        )
        with borrow(lender, frozen.leader) as borrowed:
            borrowed.run(frozen.leader, (op,))


def refusal(pid: int, images: Path) -> MigrateError:
    before = look_at(pid)
    with pytest.raises((CollectError, Refused)) as caught:
        dump(pid, images, DumpOptions())
    assert look_at(pid) == before
    assert str(caught.value).encode("utf-8"), "it can be printed"
    return caught.value


def test_a_working_directory_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    images, odd = tmp_path / "images", os.fsencode(tmp_path) + b"/" + ODD
    images.mkdir()
    os.mkdir(odd)
    with ready("signal_masks.c", tmp_path, in_directory(odd)) as run:
        assert "odd" in refusal(run.pid, images).message
        run.release()
        assert run.result() == "PASS"


def test_an_executable_whose_name_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("signal_masks.c", tmp_path, from_copy(os.fsencode(tmp_path) + b"/" + ODD)) as run:
        assert "odd" in refusal(run.pid, images).message
        run.release()
        assert run.result() == "PASS"


def test_an_open_file_whose_name_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("file_position.c", Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + ODD))) as run:
        assert "odd" in refusal(run.pid, images).message
        run.release()
        assert run.result() == "PASS"


def test_an_environment_that_is_no_text_is_carried(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()

    def start(argv: list[str]) -> "subprocess.Popen[bytes]":
        null = subprocess.DEVNULL
        odd = {os.fsencode(name): os.fsencode(value) for name, value in ENVIRONMENT.items()} | {b"ODD": ODD}
        return subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/", env=odd)

    with ready("process_vectors.c", tmp_path, start) as run:
        pid = run.pid
        dump(pid, images, DumpOptions())
        run.stop()
        restore(images, RestoreOptions())
        with ended_afterwards(pid):
            assert b"ODD=" + ODD in Path(f"/proc/{pid}/environ").read_bytes()
            run.release()
            assert run.result() == "PASS"


@pytest.mark.parametrize("name", [b" spaces around ", b"back\\slash\\n", b"line\nbreak", "Größe".encode(), b"%s {x}"])
def test_an_odd_but_valid_name_is_carried(name: bytes, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("signal_masks.c", tmp_path) as run:
        pid = run.pid
        give_name(pid, name)
        dump(pid, images, DumpOptions())
        run.stop()
        restore(images, RestoreOptions())
        with ended_afterwards(pid):
            assert Path(f"/proc/{pid}/comm").read_bytes() == name + b"\n"


def test_a_name_that_is_no_text_does_not_stop_a_dump(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("signal_masks.c", tmp_path) as run:
        give_name(run.pid, b"a\xffb")
        dump(run.pid, images, DumpOptions(leave_running=True))
        run.release()
        assert run.result() == "PASS"
