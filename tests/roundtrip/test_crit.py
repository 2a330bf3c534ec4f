"""`crit` of Debian's criu package understands every file of real dumps, and finds in them what the process has."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from core import DumpOptions, dump
from tests.requires import require, require_program, require_root
from tests.roundtrip.targets import READER, ready

PROGRAMS = ["threads50.c", "epoll.c", "pipe_content.c", "listen_tcp4.c", "listen_tcp6.c", "listen_unix_path.c",
            "listen_unix_abstract.c", "timerfd.c", "eventfd.c", "signalfd.c", "signal_actions.c", "signal_masks.c",
            "file_mapping_private.c", "file_mapping_shared.c", "file_deleted.c", "rseq.c",
            "shared_memfds.c", "shared_sparse.c",
            "creds_nobody.c", "rlimits.c", "comm.c",
            "interpreter_objects.py"]  # fmt: skip
CRIT_PYTHON = "/usr/bin/python3"  # pycriu is a package of Debian's Python
# What `crit decode` does, for all files in one go.
DECODE = """
import json, sys
import pycriu
found = {}
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        found[path.rpartition("/")[2]] = pycriu.images.load(file, pretty=False, no_payload=False)
json.dump(found, sys.stdout, default=lambda value: value.decode("latin-1"))
"""
Entries = dict[str, list[dict[str, Any]]]


def decode(images: Path) -> Entries:
    """The entries of every file but the raw pages, as crit understands them."""
    require_program("crit")
    paths = [str(path) for path in sorted(images.glob("*.img")) if not path.name.startswith("pages-")]
    done = subprocess.run([CRIT_PYTHON, "-c", DECODE, *paths], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    decoded = {name: content["entries"] for name, content in json.loads(done.stdout).items()}
    assert len(decoded) == len(paths) > 6
    return decoded


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.mark.parametrize("name", PROGRAMS)
def test_crit_decodes_every_file_and_finds_the_process_in_them(name: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready(name, tmp_path) as run:
        pid = run.pid
        dump(pid, images, DumpOptions(leave_running=True))
        tids, vmas, comm = READER.tids(pid), READER.maps(pid), READER.comm(pid)
        fds = READER.fds(pid)
    found = decode(images)
    assert found["inventory.img"][0]["img_version"] == 2
    (task,) = found["pstree.img"]
    assert (task["pid"], task["threads"]) == (pid, tids)
    (core,) = found[f"core-{pid}.img"]
    assert core["tc"]["comm"] == comm
    assert len(core["tc"]["sigactions"]) == 62
    assert [f"core-{tid}.img" in found for tid in tids] == [True] * len(tids)
    (mm,) = found[f"mm-{pid}.img"]
    assert {(vma["start"], vma["end"]) for vma in mm["vmas"]} == {(vma.start, vma.end) for vma in vmas}
    stack = next(vma for vma in vmas if vma.name == "[stack]")
    assert any(vma["start"] == stack.start and vma["status"] & 2 for vma in mm["vmas"])
    (table,) = [name for name in found if name.startswith("fdinfo-")]
    assert [entry["fd"] for entry in found[table]] == fds
    assert {entry["id"] for entry in found[table]} <= {entry["id"] for entry in found["files.img"]}


def test_the_command_itself_decodes_and_encodes_to_the_same_bytes(tmp_path: Path) -> None:
    crit = require_program("crit")
    images = tmp_path / "images"
    images.mkdir()
    with ready("signal_masks.c", tmp_path) as run:
        dump(run.pid, images, DumpOptions(leave_running=True))
    for name in ("pstree.img", f"fs-{run.pid}.img"):  # none of them has fields of ours
        text, again = tmp_path / "text", tmp_path / "again"
        for argv in (["decode", "-i", images / name, "-o", text], ["encode", "-i", text, "-o", again]):
            done = subprocess.run([crit, *argv], capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, f"{name}: {done.stderr}"
        assert again.read_bytes() == (images / name).read_bytes(), name


def test_crit_refuses_what_is_no_image(tmp_path: Path) -> None:
    crit = require_program("crit")
    (tmp_path / "pstree.img").write_bytes(b"no image at all")
    done = subprocess.run([crit, "decode", "-i", tmp_path / "pstree.img"], capture_output=True, timeout=30)
    require(Path(CRIT_PYTHON).exists(), CRIT_PYTHON)
    assert done.returncode != 0
