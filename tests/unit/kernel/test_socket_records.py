"""Sockets that the kernel has alike answer alike: one is asked, and the records of others are as if they had been."""

import errno
import os
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest

from core.errors import KernelLacks
from core.kernel.calls import pidfd_open
from core.kernel.descriptors import Hints, Option, Questions, ints, look, parse_sight
from core.kernel.socket_records import MOST_KINDS, SocketRecords, open_socket_records
from core.kernel.socket_trials import KINDS, find_shown
from core.plan.socket_options import LOOKED_AT
from tests.requires import require_root

UDP = (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
# What cannot be changed on a new socket, or not on every kernel: asked of every one.
MAY_BE_HIDDEN = {
    Option(domain, protocol, socket.SOL_SOCKET, option, 4)
    for domain, protocol in ((socket.AF_UNIX, 0), (socket.AF_INET, 17), (socket.AF_INET6, 17))
    for option in (15, 16, 30, 34, 70, 74, 75, 82, 83)  # REUSEPORT, PASSCRED, ACCEPTCONN, PASSSEC, …
}


def setup_module() -> None:
    require_root()


@contextmanager
def records() -> Iterator[tuple[SocketRecords, int]]:
    """With what they take for us."""
    with ExitStack() as stack:
        try:
            told = stack.enter_context(open_socket_records())
        except KernelLacks as error:
            pytest.skip(str(error))
        task = told.open_task(os.getpid())
        stack.callback(os.close, task)
        yield told, task


def make(stack: ExitStack, kind: tuple[int, int, int], count: int) -> list[socket.socket]:
    """By ascending descriptor."""
    made = [stack.enter_context(socket.socket(*kind)) for _ in range(count)]
    return sorted(made, key=socket.socket.fileno)


def kinds_of(told: SocketRecords, task: int, sockets: Sequence[socket.socket]) -> Sequence[int]:
    return list(told.kinds(task, ints([one.fileno() for one in sockets])))


def test_new_sockets_of_a_kind_are_alike() -> None:
    with records() as (told, task), ExitStack() as stack:
        sockets = [one for kind in KINDS for one in make(stack, kind, 2)]
        sockets.sort(key=socket.socket.fileno)
        found = dict(zip(((one.family, one.type) for one in sockets), kinds_of(told, task, sockets), strict=True))
        assert len(set(found.values())) == len(KINDS) and min(found.values()) >= 0
        assert [found[one.family, one.type] for one in sockets] == list(kinds_of(told, task, sockets))


def test_one_with_another_option_is_another() -> None:
    with records() as (told, task), ExitStack() as stack:
        sockets = make(stack, UDP, 3)
        sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 9000)
        first, second, third = kinds_of(told, task, sockets)
        assert first == third != second


def test_what_somebody_else_has_too_is_of_no_kind() -> None:
    with records() as (told, task), ExitStack() as stack:
        sockets = make(stack, UDP, 2)
        with sockets[0].dup():
            assert kinds_of(told, task, sockets)[0] == -1
        assert len(set(kinds_of(told, task, sockets))) == 1


def test_other_descriptors_are_of_no_kind() -> None:
    with records() as (told, task), socket.socket() as tcp, open("/dev/null", "rb") as null:
        assert set(told.kinds(task, ints(sorted((tcp.fileno(), null.fileno(), 100_000))))) == {-1}


def test_of_more_kinds_than_there_is_room_for_every_one_is_asked() -> None:
    with records() as (told, task), ExitStack() as stack:
        sockets = make(stack, UDP, MOST_KINDS + 5)
        for ttl, one in enumerate(sockets, 1):
            one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        assert list(kinds_of(told, task, sockets)) == [*range(MOST_KINDS), *[-1] * 5]


def test_most_options_show() -> None:
    with records() as (told, _):
        asked = find_shown(told, LOOKED_AT)
        shows = {option for option, one in zip(asked.options, asked.array, strict=True) if one.shows}
    hidden = set(LOOKED_AT.options) - shows - MAY_BE_HIDDEN
    assert not hidden


def test_an_option_that_does_not_show_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with records() as (told, _):
        known = told.known
        monkeypatch.setattr(told, "known", lambda task: dict.fromkeys(known(task), b"the same"))
        asked = find_shown(told, LOOKED_AT)
        shown = {option for option, one in zip(asked.options, asked.array, strict=True) if one.shows}
    assert shown <= MAY_BE_HIDDEN  # of which nobody sets some


def test_without_ipv6_the_others_are_tried_still(monkeypatch: pytest.MonkeyPatch) -> None:
    make_socket = socket.socket

    def without_ipv6(family: int, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return make_socket(family, *rest)

    with records() as (told, _):
        monkeypatch.setattr(socket, "socket", without_ipv6)
        asked = find_shown(told, LOOKED_AT)
        shown = {option.domain for option, one in zip(asked.options, asked.array, strict=True) if one.shows}
    assert shown == {socket.AF_UNIX, socket.AF_INET}


@pytest.mark.parametrize("seed", range(3))
def test_what_others_take_is_what_they_would_have_answered(seed: int) -> None:
    chosen = random.Random(seed)
    with records() as (told, task), ExitStack() as stack:
        pidfd = pidfd_open(os.getpid())
        stack.callback(os.close, pidfd)
        sockets = sorted((one for kind in KINDS for one in make(stack, kind, 30)), key=socket.socket.fileno)
        for one in sockets:
            options = [asked for asked in LOOKED_AT.options if asked.is_of(one.family, one.proto)]
            for asked in chosen.sample(options, chosen.choice((0, 0, 0, 1, 2))):
                with suppress(OSError):
                    one.setsockopt(asked.level, asked.option, chosen.choice((0, 1, 2)).to_bytes(asked.size, "little"))
        fds = [one.fileno() for one in sockets]
        kinds = told.kinds(task, ints(fds))
        assert len(set(kinds)) < len(sockets)
        alike = look(os.getpid(), pidfd, fds, find_shown(told, LOOKED_AT), Hints(kinds=kinds))
        assert alike == look(os.getpid(), pidfd, fds, LOOKED_AT)


def test_what_shows_is_asked_of_one_alone() -> None:
    """Seen by telling two apart sockets that they are alike."""
    with ExitStack() as stack:
        pidfd = pidfd_open(os.getpid())
        stack.callback(os.close, pidfd)
        one, other = make(stack, UDP, 2)
        other.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 9)
        other.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 8)
        ttl, tos = (
            Option(socket.AF_INET, 17, socket.IPPROTO_IP, option, 4) for option in (socket.IP_TTL, socket.IP_TOS)
        )
        questions = Questions((ttl, tos), {ttl})
        found = look(os.getpid(), pidfd, [one.fileno(), other.fileno()], questions, Hints(kinds=ints([5, 5])))
        sights = [parse_sight(record or b"") for record in found]
        answers = [sight.asked(questions) for sight in sights if sight is not None]
        assert [answer.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) for answer in answers] == [64, 64]
        assert [answer.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) for answer in answers] == [0, 8]
