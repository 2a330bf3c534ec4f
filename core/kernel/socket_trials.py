"""Which socket options show in the records of sockets (core.kernel.socket_records), found out by setting them.

An option shows when no two sockets that answer otherwise have the same record: each is tried with values that change
the answer, on new sockets of ours. One that cannot be changed here, by rights, is taken for one that does not show; one
that the kernel does not have for such sockets, or never lets anybody set, and that all of them answer alike, for one
that does: there is nothing to see.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Final

from core.kernel.descriptors import Option, Questions
from core.kernel.socket_records import SocketRecords

KINDS: Final = (
    (socket.AF_UNIX, socket.SOCK_STREAM, 0), (socket.AF_UNIX, socket.SOCK_DGRAM, 0),
    (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0), (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
)  # fmt: skip
Kind = tuple[int, int, int]  # family, type, protocol
NUMBERS: Final = (0, 1, 2, 3, 5, 255, 300, 70_000, 1 << 24, -1)
LOOPBACK_INDEX: Final = 1
MOST_ANSWERS: Final = 4  # an option is tried with
UNKNOWN: Final = frozenset({errno.ENOPROTOOPT, errno.EOPNOTSUPP})


def _values(size: int) -> Iterator[bytes]:
    """What an option of so many bytes may take: numbers, pairs of them, the name or number of an interface, an address
    of ours."""
    if size == 4:
        yield from (struct.pack("<i", number) for number in NUMBERS)
        yield struct.pack(">I", LOOPBACK_INDEX)
        yield socket.inet_aton("127.0.0.1")
    elif size == 8:
        yield from (struct.pack("<q", number) for number in NUMBERS)
        yield from (struct.pack("<2i", first, second) for first in (0, 1) for second in NUMBERS)
    else:
        yield b"lo\0"
        yield from (struct.pack("<2q", first, second) for first in (0, 1, 300, 1 << 24) for second in (0, 1000, 4000))


def _ask(one: socket.socket, option: Option) -> bytes | int:
    try:
        return one.getsockopt(option.level, option.option, option.size)
    except OSError as error:
        return error.errno or errno.EINVAL


def _in_other_states(stack: ExitStack, kind: Kind) -> Iterator[socket.socket]:
    """One that listens, one that is connected."""
    family, type, _ = kind
    with suppress(OSError):
        one = stack.enter_context(socket.socket(*kind))
        one.bind("" if family == socket.AF_UNIX else ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        if family == socket.AF_UNIX and type != socket.SOCK_DGRAM:
            one.listen()
        elif family != socket.AF_UNIX:
            one.connect(one.getsockname())
        yield one
    if family == socket.AF_UNIX:
        pair = socket.socketpair(*kind)
        for end in pair:
            stack.callback(end.close)
        yield pair[0]


def _tried(stack: ExitStack, kind: Kind, option: Option) -> Iterator[socket.socket]:
    """One of each answer that can be had, MOST_ANSWERS at most."""
    one = stack.enter_context(socket.socket(*kind))
    answers = {_ask(one, option)}
    yield one
    for value in _values(option.size):
        if len(answers) == MOST_ANSWERS:
            return
        with ExitStack() as tried:
            one = tried.enter_context(socket.socket(*kind))
            with suppress(OSError):
                one.setsockopt(option.level, option.option, value)
            if (answer := _ask(one, option)) not in answers:
                answers.add(answer)
                stack.push(tried.pop_all())
                yield one


def _is_fixed(kind: Kind, option: Option, answer: bytes | int) -> bool:
    """The kernel knows of nobody who asks for it or sets it."""
    if answer in UNKNOWN:
        return True
    for value in _values(option.size):
        with socket.socket(*kind) as one:
            try:
                one.setsockopt(option.level, option.option, value)
            except OSError as error:
                if error.errno in UNKNOWN:
                    continue
            return False
    return True


def _shown(kind: Kind, options: Iterable[Option], read: Callable[[], dict[int, bytes]]) -> set[Option]:
    """Those of a kind of socket. `read`: the record of each of ours."""
    with ExitStack() as stack:
        others = list(_in_other_states(stack, kind))
        tried = {option: [*_tried(stack, kind, option), *others] for option in options}
        records = read()
        shown = set()
        for option, sockets in tried.items():
            answers = [_ask(one, option) for one in sockets]
            told = [records.get(one.fileno()) for one in sockets]
            pairs = set(zip(told, answers, strict=True))
            is_seen = None not in told and len(set(answers)) > 1 and len(pairs) == len(set(told))
            if is_seen or (len(set(answers)) == 1 and _is_fixed(kind, option, answers[0])):
                shown.add(option)
        return shown


def _shown_or_none(kind: Kind, options: Iterable[Option], read: Callable[[], dict[int, bytes]]) -> set[Option]:
    """None of a kind that this kernel has not, or that there is no room for."""
    try:
        return _shown(kind, options, read)
    except OSError:
        return set()


def find_shown(records: SocketRecords, questions: Questions) -> Questions:
    """The same, with those that show. OSError: it cannot be tried here."""
    task = records.open_task(os.getpid())
    try:
        hidden: set[Option] = set()
        for kind in KINDS:
            family, _, protocol = kind
            options = {one for one in questions.options if one.is_of(family, protocol)}
            hidden |= options - _shown_or_none(kind, options, lambda: records.known(task))
        return Questions(questions.options, set(questions.options) - hidden)
    finally:
        os.close(task)
