"""Pseudo-terminals that are made anew: their number where it is free, and what waited in them in any case."""

import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.errors import ImageError
from core.images import kinds
from core.images.pb.tty_pb2 import TtyDataEntry, TtyInfoEntry
from core.images.store import ImageSet
from core.kernel.pty import opened_slave
from core.kernel.pty_content import PtyContent, copy_content, put_content
from core.plan.terminals import FIRST_HANDED, slave_id
from core.resources import terminal
from core.resources.terminal_store import TerminalStore
from tests.requires import require_root


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@contextmanager
def pair() -> Iterator[tuple[int, int]]:
    """Master and slave."""
    master, slave = pty.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def images_of(master: int, slave: int, content: PtyContent) -> ImageSet:
    first, second = (terminal.collect_end(master, is_master=one) for one in (True, False))
    second.uid, second.gid = os.fstat(slave).st_uid, os.fstat(slave).st_gid
    images = ImageSet()
    for info in (first, second):
        images.add(kinds.TTY_INFO, info)
    data = b"".join((*content.lines, content.rest))
    images.add(kinds.TTY_DATA, TtyDataEntry(tty_id=first.id, data=content.output))
    images.add(kinds.TTY_DATA, TtyDataEntry(tty_id=second.id, data=data, lines=map(len, content.lines)))
    return images


def test_a_number_that_is_taken_is_told_and_nothing_is_lost() -> None:
    content = PtyContent(b"shown", [b"one\n", b""], b"unfinished")
    store = TerminalStore()
    try:
        with pair() as (master, slave):
            put_content(master, slave, content)
            images = images_of(master, slave, content)
            (info,) = (one for one in images.all(kinds.TTY_INFO) if one.id & 1)
            store.make(images)
            (notice,) = store.settle(images)
            made = store.fd(FIRST_HANDED | info.id)
            assert os.ttyname(slave) in notice and store.path(info.id) in notice
            with opened_slave(made) as other:
                assert os.ttyname(other) == store.path(info.id) != os.ttyname(slave)
                assert copy_content(made, other) == content
    finally:
        store.close()


def test_a_number_that_is_free_comes_back() -> None:
    with pair() as (master, slave):
        images = images_of(master, slave, PtyContent())
        path = os.ttyname(slave)
    store = TerminalStore()
    try:
        store.make(images)
        assert store.settle(images) == [] or os.path.exists(path)  # another test may have come by it
    finally:
        store.close()


def _too_large(info: TtyInfoEntry) -> None:
    info.winsize.ws_row = 1 << 20


def _no_such_character(info: TtyInfoEntry) -> None:
    info.termios.c_cc[0] = 300


@pytest.mark.parametrize("damage", [_too_large, _no_such_character])
def test_settings_that_there_are_not_are_an_error_of_the_image(damage: object) -> None:
    assert callable(damage)
    with pair() as (master, slave):
        images = images_of(master, slave, PtyContent())
    for info in images.all(kinds.TTY_INFO):
        damage(info)
    store = TerminalStore()
    try:
        with pytest.raises(ImageError, match="tty-info"):
            store.make(images)
            store.settle(images)
    finally:
        store.close()


def test_lines_that_are_longer_than_the_content_are_an_error_of_the_image() -> None:
    with pair() as (master, slave):
        images = images_of(master, slave, PtyContent())
    number = images.all(kinds.TTY_INFO)[0].pty.index
    images.add(kinds.TTY_DATA, TtyDataEntry(tty_id=slave_id(number), data=b"x", lines=[1, 1]))
    store = TerminalStore()
    try:
        store.make(images)
        with pytest.raises(ImageError, match="tty-data"):
            store.settle(images)
    finally:
        store.close()
