"""Which files are sent before a move, and which go along with it."""

import stat

import pytest

from migrate.pb import control_pb2 as pb
from migrate.sync_files import carried_files, lacking_files, named_twice

FILE = stat.S_IFREG | 0o644
HERE, NETWORK = "boot 5", "nfs4 server:/x"


def need(path: str, *, writable: bool = False, mode: int = FILE, filesystem_id: str = HERE) -> pb.FileNeed:
    return pb.FileNeed(path=path, mode=mode, writable=writable, filesystem_id=filesystem_id)


def target(*needs: pb.FileNeed) -> pb.TargetFacts:
    return pb.TargetFacts(files=needs, host=pb.HostFacts(boot_id="boot"))


def paths(needs: list[pb.FileNeed]) -> list[str]:
    return [one.path for one in needs]


@pytest.mark.parametrize(("choice", "sent"), [("none", []), ("missing", ["/a"]), ("changed", ["/a", "/b"])])
def test_what_is_read_is_sent(choice: str, sent: list[str]) -> None:
    answer = pb.CheckAnswer(missing=["/a", "/dev/x"], differing=["/b", "/w"])
    needs = [need("/b"), need("/a"), need("/w", writable=True), need("/dev/x", mode=stat.S_IFCHR | 0o600)]
    assert paths(lacking_files(needs, answer, choice)) == sent


def test_what_is_written_goes_along_whoever_reads_it_too() -> None:
    answer = pb.CheckAnswer(missing=["/log"], differing=["/other"])
    needs = target(need("/log"), need("/log", writable=True), need("/other", writable=True))
    assert paths(lacking_files(needs.files, answer, "changed")) == []
    assert paths(carried_files(needs, answer, "missing")) == ["/log", "/log"]
    assert carried_files(needs, answer, "none") == []


def test_a_file_of_the_network_stays_where_it_is() -> None:
    answer = pb.CheckAnswer(missing=["/net/log"])
    assert carried_files(target(need("/net/log", writable=True, filesystem_id=NETWORK)), answer, "missing") == []


def named(*files: tuple[str, int], filesystem_id: str = HERE, mode: int = FILE) -> list[pb.FileNeed]:
    return [pb.FileNeed(path=path, inode=inode, filesystem_id=filesystem_id, mode=mode) for path, inode in files]


def test_two_names_of_one_file_are_told_from_one_that_is_open_twice() -> None:
    files = named(("/a", 1), ("/a", 1), ("/b", 2))
    assert named_twice(files, files) == {}
    both = [*files, *named(("/c", 2))]
    assert named_twice(both, both) == {"/b": "/c", "/c": "/b"}
    for other in (named(("/c", 2), filesystem_id="boot 6"), named(("/c", 2), mode=stat.S_IFDIR | 0o755)):
        assert named_twice([*files, *other], files) == {}


def test_one_of_two_names_may_be_read_only() -> None:
    """It would be another file over there, or be copied, and never see what is written."""
    written, read = named(("/a", 1)), named(("/b", 1))
    assert named_twice([*written, *read], written) == {"/a": "/b"}


def test_directories_come_before_what_is_in_them() -> None:
    answer = pb.CheckAnswer(missing=["/d/f", "/d"])
    assert paths(lacking_files([need("/d/f"), need("/d", mode=stat.S_IFDIR | 0o755)], answer, "missing")) == [
        "/d",
        "/d/f",
    ]
