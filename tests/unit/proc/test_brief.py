"""The few lines of a status that are read in bulk say what the whole of it says; many files come in one call."""

import os
import threading
from pathlib import Path

import pytest

from core.errors import CollectError
from core.proc import bulk
from core.proc.brief import parse_brief
from core.proc.children import children_of
from core.proc.prefetched import PrefetchedReader
from core.proc.reader import ProcReader

PID = os.getpid()


def test_a_brief_status_is_part_of_the_whole() -> None:
    brief = parse_brief(Path(f"/proc/{PID}/status").read_bytes())
    whole = brief.whole()
    assert (brief.name, brief.umask, brief.own_tid) == (whole.name, whole.umask, whole.ns_pid[-1])
    assert (brief.pgid, brief.sid, brief.seccomp) == (whole.ns_pgid[-1], whole.ns_sid[-1], whole.seccomp)
    assert (brief.sig_pending, brief.shared_pending) == (whole.sig_pending, whole.shared_pending)


def test_rights_tell_credentials_and_nothing_that_differs_between_threads() -> None:
    text = Path(f"/proc/{PID}/status").read_bytes()
    other = text.replace(b"Uid:\t0", b"Uid:\t1").replace(b"NoNewPrivs:\t0", b"NoNewPrivs:\t1")
    elsewhere = text.replace(b"Pid:\t%d" % PID, b"Pid:\t1").replace(b"State:\tR", b"State:\tS")
    assert parse_brief(elsewhere).rights == parse_brief(text).rights
    assert other == text or parse_brief(other).rights != parse_brief(text).rights


def test_a_name_cannot_forge_a_line() -> None:
    text = Path(f"/proc/{PID}/status").read_bytes()
    forged = b"Name:\ta\\nUid:\t7\\\\n\n" + text.partition(b"\n")[2]
    assert parse_brief(forged).name == "a\nUid:\t7\\n"


@pytest.mark.parametrize("text", [b"", b"Name:\tx\n", b"Name:\tx\nState:\tS\nUid:\t0\n"])
def test_what_is_no_status_is_refused(text: bytes) -> None:
    with pytest.raises(CollectError, match="status"):
        parse_brief(text)


def test_many_files_come_in_their_order_and_errors_in_place_of_those_that_are_not_there(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 300_000)
    paths = [str(big), "/proc/self/none", *["/proc/self/comm"] * 100, str(big), str(tmp_path)]
    found = bulk.read_all(paths)
    assert found[0] == found[-2] == b"x" * 300_000
    assert found[2:-2] == [Path("/proc/self/comm").read_bytes()] * 100
    assert (found[1], found[-1]) == (2, 21)  # ENOENT, EISDIR


def test_more_than_there_is_room_for_comes_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 50_000)
    (tmp_path / "small").write_bytes(b"y")
    paths = [str(tmp_path / name) for name in ("big", "small", "none")] * 400
    assert bulk.read_all(paths) == [b"x" * 50_000, b"y", 2] * 400


def test_folders_come_in_bulk_too(tmp_path: Path) -> None:
    for number in range(9000):
        (tmp_path / f"{number:0200}").touch()
    paths = [str(tmp_path), "/proc/self/none", *["/proc/self/task"] * 200]
    names, missing, *tasks = bulk.read_all(paths, bulk.What.NAMES)
    assert isinstance(names, bytes) and sorted(names.split(b"\0")[:-1]) == sorted(os.listdir(os.fsencode(tmp_path)))
    assert missing == 2 and all(isinstance(one, bytes) and b"%d\0" % PID in one for one in tasks)
    assert ProcReader().numbers([(PID, "task")])[0] == ProcReader().tids(PID)


def test_links_come_in_bulk_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/somewhere")
    assert bulk.read_all([str(tmp_path / "link"), str(tmp_path)], bulk.What.LINK) == [b"/somewhere", 22]


def test_files_of_each_process_come_in_bulk_whether_there_are_many_or_none() -> None:
    child = os.fork()
    if not child:
        threading.Event().wait(60)
        os._exit(0)
    try:
        reader, pids = ProcReader(), [PID, child, PID]
        for names in ([], ["comm"], ["comm", "none", "cmdline"]):
            for found, pid in zip(reader.contents_of(pids, names), pids, strict=True):
                one_by_one = reader.contents([(pid, name) for name in names])
                assert [str(one) for one in found] == [str(one) for one in one_by_one]
        assert reader.links_of(pids, []) == [[], [], []]
        assert reader.links_of(pids, ["exe", "cwd"]) == [reader.links([(pid, "exe"), (pid, "cwd")]) for pid in pids]
        assert reader.contents_of([], ["comm"]) == reader.links_of([], []) == []
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_prefetched_reader_hands_out_what_was_read_before() -> None:
    reader = PrefetchedReader(ProcReader(), [PID], ["comm", "none"], ["exe"])
    before = threading.current_thread().name, reader.comm(PID)
    Path(f"/proc/{PID}/comm").write_text("other")
    try:
        assert reader.comm(PID) == before[1] and ProcReader().comm(PID) == "other"
        assert reader.exe(PID) == ProcReader().exe(PID)
        with pytest.raises(FileNotFoundError):
            reader.text(PID, "none")
    finally:
        Path(f"/proc/{PID}/comm").write_text(before[1])


def test_children_are_found_through_threads_and_through_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.fork()
    if not child:
        threading.Event().wait(60)
        os._exit(0)
    try:
        assert child in children_of({PID: 1}, ProcReader())[0][PID]
        monkeypatch.setattr("core.proc.children.MANY_THREADS", 0)
        assert child in children_of({PID: 1 << 20}, ProcReader())[0][PID]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert children_of({child: 1}, ProcReader()) == ({}, True)
