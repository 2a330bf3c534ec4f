"""A program that comes from a kernel with another vDSO keeps its functions where they were, and they tell the time.

Dumps of this kernel are given the vDSO of another before they are restored; from then on nothing is doctored.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from core.errors import ImageError, RestoreError
from core.images import kinds
from core.images.pagemap import PagemapReader, PagemapWriter
from core.images.store import read_directory, write_directory
from core.proc.auxv import AT_SYSINFO_EHDR, auxv_value
from core.proc.maps import parse_maps
from core.resources.vmas import VVAR
from core.vdso.layout import parse_symbols
from core.vdso.mark import NAMES
from tests.hosts import make_hosts
from tests.memory_total import pss_bytes
from tests.program_build import ENVIRONMENT, Run, find, start_here
from tests.requires import require_root
from tests.roundtrip.one_host import moved
from tests.roundtrip.targets import READER, ended_afterwards, home_cgroup, own_fds, ready
from tests.roundtrip.test_trees import pids_of
from tests.unit.vdso.images import FOREIGN, IMAGES, foreign_places
from tests.waiting import wait_until

Change = Callable[[bytes], bytes]


def replace_vdso(directory: Path, pid: int, change: Change) -> None:
    """Rewrite the pages of [vdso] in a directory of images."""
    old = PagemapReader(directory, pid)
    images = read_directory(directory)
    start = next(vma.start for vma in images.one(kinds.MM, pid).vmas if vma.status & 8)
    descriptor = old.open_pages()
    try:
        parts = [(run, os.pread(descriptor, run.end - run.address, run.offset or 0)) for run, _ in old.resolved()]
    finally:
        os.close(descriptor)
    pages_id = int(old.pages_name.removeprefix("pages-").removesuffix(".img"))
    with PagemapWriter(directory, pid, pages_id=pages_id) as writer:
        for run, content in parts:
            writer.append(run.address, change(content) if run.address == start else content)


def make_foreign(directory: Path, pid: int, image: bytes) -> None:
    """As if the program came from a kernel before 6.13 with this vDSO."""
    images = read_directory(directory)
    mm = images.one(kinds.MM, pid)
    vdso = next(vma for vma in mm.vmas if vma.status & 8)
    assert vdso.end - vdso.start == len(image)
    vvars = [vma for vma in mm.vmas if vma.status & VVAR]
    vvars[-1].start, vvars[-1].end = foreign_places(vdso.start)["[vvar]"]
    for vma in vvars[:-1]:
        mm.vmas.remove(vma)
    write_directory(images, directory)
    replace_vdso(directory, pid, lambda _content: image)


def kernel_places(pid: int) -> dict[str, tuple[int, int]]:
    return {vma.name: (vma.start, vma.end) for vma in READER.maps(pid) if vma.name in NAMES}


def sysinfo(pid: int) -> int | None:
    return auxv_value(READER.auxv(pid), AT_SYSINFO_EHDR)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    require_root()
    (tmp_path / "parked").touch()
    with ready("vdso_symbols.c", tmp_path, lambda command: start_here([*command, f"{tmp_path}/parked"])) as started:
        yield started


def leave_park(run: Run, tmp_path: Path) -> None:
    """From here on its thread is inside the vDSO nearly all of the time."""
    (tmp_path / "parked").unlink()
    wait_until(lambda: len(READER.tids(run.pid)) == 2, "the program has left its park")


def dumped(run: Run, tmp_path: Path, name: str, *, leave_running: bool = False) -> Path:
    directory = tmp_path / name
    directory.mkdir()
    dump(run.pid, directory, DumpOptions(leave_running=leave_running))
    return directory


@contextmanager
def proxied(run: Run, tmp_path: Path, kernel: str) -> Iterator[None]:
    """It was dumped by another kernel and runs here again, inside the vDSO nearly all of the time."""
    images = dumped(run, tmp_path, "images-from")
    run.stop()
    make_foreign(images, run.pid, FOREIGN[kernel])
    with ended_afterwards(run.pid):
        restore(images, RestoreOptions())
        leave_park(run, tmp_path)
        yield


@pytest.mark.parametrize("kernel", FOREIGN)
def test_three_moves_in_a_row_from_another_kernel(kernel: str, run: Run, tmp_path: Path) -> None:
    ehdr = sysinfo(run.pid)
    assert ehdr
    with proxied(run, tmp_path, kernel):
        count = len(READER.maps(run.pid))
        for number in (1, 2):
            assert sysinfo(run.pid) == ehdr
            assert kernel_places(run.pid)["[vdso]"][0] != ehdr
            images = dumped(run, tmp_path, f"images-{number}")
            known = read_directory(images).one(kinds.MM, run.pid).vmas
            assert {(vma.start, vma.end) for vma in known if vma.status & (8 | VVAR)} == set(
                foreign_places(ehdr).values()
            )
            restore(images, RestoreOptions())
            assert len(READER.maps(run.pid)) == count
        run.release()
        assert run.result() == "PASS"


def test_a_proxied_program_runs_on_after_leave_running(run: Run, tmp_path: Path) -> None:
    with proxied(run, tmp_path, "6.12"):
        before = READER.text(run.pid, "maps")
        for number in range(8):
            dumped(run, tmp_path, f"images-{number}", leave_running=True)
        assert READER.text(run.pid, "maps") == before
        run.release()
        assert run.result() == "PASS"


def test_a_proxied_program_moves_live(run: Run, tmp_path: Path) -> None:
    ehdr = sysinfo(run.pid)
    with (
        proxied(run, tmp_path, "6.12"),
        home_cgroup(run.pid),
        moved(run.pid, "cgroup", between=[lambda: None]) as move,
    ):
        copy = move.commit()
        assert sysinfo(copy) == ehdr != kernel_places(copy)["[vdso]"][0]
        run.release()
        assert run.result() == "PASS"


def test_a_tree_keeps_what_it_shares_behind_its_proxies(tmp_path: Path) -> None:
    require_root()
    with make_hosts("host-a", binds={str(tmp_path): str(tmp_path)}) as (host,):
        program = replace(find("tree_cow_many.c"), args=("4", "8"))
        run = program.start(tmp_path / "run", lambda argv: host.start(argv, env=ENVIRONMENT))
        run.wait_ready()
        before = pss_bytes(host, pids_of(host, run))
        for number in range(2):
            images = tmp_path / f"images-{number}"
            images.mkdir()
            host.run(["migrate", "dump", "-t", str(run.pid), "-D", str(images)])
            wait_until(lambda: not pids_of(host, run), "the whole tree has ended")
            for task in read_directory(images).all(kinds.PSTREE) if number == 0 else ():
                make_foreign(images, task.pid, IMAGES["own"])
            host.run(["migrate", "restore", "-D", str(images), "-d"])
            assert pss_bytes(host, pids_of(host, run)) == pytest.approx(before, rel=0.05)
        known = next(vma.start for vma in read_directory(images).one(kinds.MM, run.pid).vmas if vma.status & 8)
        maps = parse_maps(host.run(["cat", f"/proc/{run.pid}/maps"]).stdout)
        assert next(vma.start for vma in maps if vma.path == "[vdso]") != known
        run.release()
        assert run.result() == "PASS"


def test_a_thread_cut_short_in_a_replaced_entry_is_an_error_that_leaves_nothing(run: Run, tmp_path: Path) -> None:
    images = dumped(run, tmp_path, "images")
    run.stop()
    make_foreign(images, run.pid, FOREIGN["6.12"])
    [offset] = [offset for name, offset, _ in parse_symbols(FOREIGN["6.12"]) if name == "__vdso_clock_gettime"]
    found = read_directory(images)
    vdso = next(vma.start for vma in found.one(kinds.MM, run.pid).vmas if vma.status & 8)
    found.one(kinds.CORE, run.pid).thread_info.gpregs.ip = vdso + offset + 4
    write_directory(found, images)
    before, children = own_fds(), READER.children(os.getpid())
    with pytest.raises(RestoreError, match="beginning of a function of its vDSO"):
        restore(images, RestoreOptions())
    assert (own_fds(), READER.children(os.getpid())) == (before, children)


def test_a_dump_whose_vdso_is_no_elf_image_starts_nothing(run: Run, tmp_path: Path) -> None:
    images = dumped(run, tmp_path, "images")
    run.stop()
    replace_vdso(images, run.pid, lambda content: content.replace(b"\x7fELF", b"none"))
    before, children = own_fds(), READER.children(os.getpid())
    with pytest.raises(ImageError, match="vdso"):
        restore(images, RestoreOptions())
    assert (own_fds(), READER.children(os.getpid())) == (before, children)
