"""Plans of UNIX sockets as programs, without running them."""

import socket
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ImageError
from core.images import kinds
from core.images.pb.descriptors_pb2 import FownEntry
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.pb.sockets_pb2 import ScmEntry, SkOptsEntry, SkPacketEntry, SkUcredEntry, UnixSkEntry
from core.images.store import ImageSet
from core.plan.ops import Program
from core.resources import table_plan

NOBODY = FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0)
OPTIONS = SkOptsEntry(
    so_sndbuf=212992, so_rcvbuf=212992, so_snd_tmo_sec=0, so_snd_tmo_usec=0, so_rcv_tmo_sec=0, so_rcv_tmo_usec=0,
    so_buf_lock=0,
)  # fmt: skip


def entry(id: int, **more: object) -> FileEntry:
    fields: dict[str, object] = {
        "ino": 100 + id, "type": socket.SOCK_STREAM, "state": 7, "flags": 2, "uflags": 0, "backlog": 0, "peer": 0,
        "name": b"",
    }  # fmt: skip
    sock = UnixSkEntry(id=id, fown=NOBODY, opts=OPTIONS, **(fields | more))  # type: ignore[arg-type]
    return FileEntry(type=FdTypes.UNIXSK, id=id, usk=sock)


def images_of(*entries: FileEntry, tables: dict[int, list[int]] | None = None) -> ImageSet:
    images = ImageSet()
    for one in entries:
        images.add(kinds.FILES, one)
    for files_id, ids in (tables or {1: [one.id for one in entries]}).items():
        for fd, id in enumerate(ids):
            images.add(kinds.FDINFO, FdinfoEntry(id=id, flags=0, type=FdTypes.UNIXSK, fd=fd), files_id)
    return images


def calls(program: Program) -> list[str]:
    return [op.name for op in program]


def test_a_pair_of_two_tasks_is_made_by_the_first_and_fetched_by_the_second() -> None:
    images = images_of(entry(1, state=1, peer=102), entry(2, state=1, peer=101), tables={1: [1], 2: [2]})
    first, second = table_plan.plan_tables(images, {10: 1, 20: 2}, tcp="refuse").values()
    assert calls(first.program).count("socketpair") == 1
    assert calls(first.close_program) == ["close"]
    assert "socketpair" not in calls(second.program)
    assert "pidfd_getfd" in calls(second.program)


def test_peer_credentials_are_those_of_a_user_for_the_call_that_sets_them_only() -> None:
    cred = SkUcredEntry(pid=10, uid=1000, gid=100)
    images = images_of(entry(1, state=1, peer=102, peer_cred=cred), entry(2, state=1, peer=101, peer_cred=cred))
    names = calls(table_plan.plan(images, 1, tcp="refuse").program)
    made = names.index("socketpair")
    assert names[made - 2 : made + 3] == ["setresgid", "setresuid", "socketpair", "setresuid", "setresgid"]


def test_a_path_is_unlinked_only_where_a_socket_of_the_images_had_it() -> None:
    images = images_of(entry(1, state=1, peer_name=b"/run/others.sock"), entry(2, name=b"/run/mine.sock"))
    paths = {op.args[1] for op in table_plan.plan(images, 1, tcp="refuse").program if op.name == "unlinkat"}
    assert paths == {b"/run/mine.sock\0"}


def test_a_stranger_in_flight_is_an_error_of_the_images() -> None:
    images = images_of(entry(1, state=1, peer=102), entry(2, state=1, peer=101))
    packet = SkPacketEntry(id_for=1, length=1, scm=[ScmEntry(type=socket.SCM_RIGHTS, rights=[99])])
    images.add(kinds.SK_QUEUES, packet, payload=b"x")
    with pytest.raises(ImageError, match="in flight"):
        table_plan.plan(images, 1, tcp="refuse")


SMALL = st.integers(0, 6)
NAMES = st.sampled_from([b"", b"\0a", b"\0b", b"/tmp/c", b"/tmp/c\0", b"relative"])


@st.composite
def tangles(draw: st.DrawFn) -> ImageSet:
    """Sockets that point at each other as they like, in two tables, with queues."""
    count = draw(st.integers(1, 6))
    inos = draw(st.permutations(range(7)))
    entries = [
        entry(
            id, ino=inos[id], type=draw(st.sampled_from([1, 2, 5])), state=draw(st.sampled_from([1, 7, 10])),
            peer=draw(SMALL), uflags=draw(st.sampled_from([0, 0, 0, 1])), name=draw(NAMES), peer_name=draw(NAMES),
            waiting=draw(st.lists(SMALL, max_size=3)), shutdown=draw(st.integers(0, 3)), reset=draw(st.booleans()),
        )
        for id in range(1, count + 1)
    ]  # fmt: skip
    cut = draw(st.integers(0, count))
    ids = [one.id for one in entries]
    images = images_of(*entries, tables={1: ids[:cut], 2: ids[cut:]})
    for files_id in (1, 2):
        images.add_empty(kinds.FDINFO, files_id)
    for id_for, rights, sender in draw(st.lists(st.tuples(SMALL, st.lists(SMALL, max_size=2), NAMES), max_size=4)):
        scm = [ScmEntry(type=socket.SCM_RIGHTS, rights=rights)] if rights else []
        images.add(kinds.SK_QUEUES, SkPacketEntry(id_for=id_for, length=1, scm=scm, sender=sender), payload=b"x")
    return images


@settings(max_examples=300, deadline=None)
@given(tangles())
def test_any_tangle_of_sockets_has_a_plan_or_is_an_error_of_the_images(images: ImageSet) -> None:
    with suppress(ImageError):
        table_plan.plan_tables(images, {10: 1, 20: 2}, tcp="refuse")


@pytest.mark.parametrize(("ours", "pairs"), [({"peer_name": b"/gone"}, 1), ({}, 0)])
def test_a_named_datagram_socket_lost_its_peer_if_the_image_says_so(ours: dict[str, object], pairs: int) -> None:
    """CRIU's have it connected, to nobody, as soon as others are connected to it: they could not be any more."""
    receiver = entry(1, type=socket.SOCK_DGRAM, state=1, name=b"\0receiver", **ours)
    images = images_of(receiver, entry(2, type=socket.SOCK_DGRAM, state=1, peer=101))
    [plan] = table_plan.plan_tables(images, {10: 1}, tcp="refuse").values()
    assert calls(plan.program).count("socketpair") == pairs
