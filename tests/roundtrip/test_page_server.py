"""Pages go to a page server, the other images stay; put together they restore. Broken streams leave nothing."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from core import DumpOptions, PageStore, Ranges, RestoreOptions, dump, pre_dump, restore
from core.errors import PageStreamError, Refused, UsageError
from migrate.cli.commands import run as run_command
from migrate.pagesrv.client import PageClient, connected
from migrate.pagesrv.sender import PageSender
from migrate.pagesrv.server import listen, serve_one
from tests.requires import require_root
from tests.roundtrip.targets import ended_afterwards, ready
from tests.seeds import random_numbers
from tests.unit.pagesrv.streams import FakeReader


@contextmanager
def serving(store: PageStore) -> Iterator[tuple[int, list[BaseException]]]:
    """A page server's port, and what it failed with."""
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            serve_one(listener, store)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], errors
        finally:
            thread.join(timeout=60)
            assert not thread.is_alive()


def directories(place: Path, *names: str) -> list[Path]:
    for name in names:
        (place / name).mkdir(parents=True)
    return [place / name for name in names]


@pytest.mark.parametrize("name", ["memory_writer.c", "memory_holes.c"])
def test_local_images_and_the_servers_pages_together_restore(name: str, tmp_path: Path) -> None:
    require_root()
    first, last = directories(tmp_path / "here", "1", "2")
    their_first, their_last = directories(tmp_path / "there", "1", "2")
    with ready(name, tmp_path) as run:
        with serving(PageStore(their_first)) as (port, errors), connected("127.0.0.1", port) as client:
            pre_dump(run.pid, first, DumpOptions(), client)
        with serving(PageStore(their_last, "../1")) as (port, more), connected("127.0.0.1", port) as client:
            report = dump(run.pid, last, DumpOptions(prev_images_dir="../1"), client)
        assert (errors, more, report.notices) == ([], [], ()) and report.inherited > 0
        run.stop()
        assert not list(last.glob("page*")) and not list(their_last.glob("core*"))
        for mine, theirs in ((first, their_first), (last, their_last)):
            shutil.copytree(theirs, mine, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("parent"))
        with ended_afterwards(restore(last, RestoreOptions()).pid):
            run.release()
            assert run.result() == "PASS"


def test_a_server_without_the_parents_pages_is_refused_and_the_process_runs_on(tmp_path: Path) -> None:
    require_root()
    other, first, last, empty, wrong = directories(tmp_path, "1", "2", "3", "4", "5")
    with ready("memory_holes.c", tmp_path) as run:
        pre_dump(run.pid, other, DumpOptions())
        pre_dump(run.pid, first, DumpOptions())
        for store, match in ((PageStore(empty), "no parent"), (PageStore(wrong, "../1"), "another dump")):
            with (
                serving(store) as (port, errors),
                connected("127.0.0.1", port) as client,
                pytest.raises(Refused, match=match),
            ):
                dump(run.pid, last, DumpOptions(prev_images_dir="../2"), client)
            assert errors
        assert not list(empty.glob("page*")) and not list(wrong.glob("page*"))
        run.release()
        assert run.result() == "PASS"


def sent_dump() -> bytes:
    """All that a client sends of a small dump."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = PageSender(ours.fileno(), "none")
        sender.send_ids(1, "a" * 32, "")
        pages = {number * 4096: bytes([number % 7]) * 4096 for number in range(16, 40)}
        sender.send_round(1, 812, FakeReader(pages), Ranges.from_pages(range(16, 40)))
        sender.end_round(1)
        ours.shutdown(socket.SHUT_WR)
        with theirs.makefile("rb") as file:
            return file.read()


def test_a_stream_that_is_cut_or_changed_anywhere_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    numbers, whole = random_numbers(), sent_dump()
    spoilt = [whole[: numbers.randrange(len(whole))] for _ in range(20)]
    for _ in range(20):
        at = numbers.randrange(len(whole))
        spoilt.append(whole[:at] + bytes([whole[at] ^ 1 << numbers.randrange(8)]) + whole[at + 1 :])
    [directory] = directories(tmp_path, "images")
    for content in spoilt:
        with (
            serving(PageStore(directory)) as (port, errors),
            socket.create_connection(("127.0.0.1", port)) as client,
            suppress(OSError),  # it may have hung up already
        ):
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
        assert isinstance(errors[0], PageStreamError), errors
        assert os.listdir(directory) == []
    with serving(PageStore(directory)) as (port, errors), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(whole)
        with client.makefile("rb") as file:
            file.read()
    assert errors == [] and sorted(os.listdir(directory)) == ["pagemap-812.img", "pages-1.img"]
    with pytest.raises(UsageError, match="holds pages already"):
        PageStore(directory)


def test_a_server_that_goes_away_fails_the_dump_and_the_process_runs_on(tmp_path: Path) -> None:
    require_root()
    [here] = directories(tmp_path, "here")
    ours, theirs = socket.socketpair()
    with ready("memory_writer.c", tmp_path) as run, ours, theirs:
        PageSender(theirs.fileno(), "none").end_round(0)
        client = PageClient(ours)
        theirs.close()
        with pytest.raises(PageStreamError, match=r"cannot send|ended|cannot receive"):
            dump(run.pid, here, DumpOptions(), client)
        run.release()
        assert run.result() == "PASS"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["page-server", "-D", ".", "--port", "1", "--address", "192.0.2.1"], "plain TCP"),
        (["dump", "-t", "1", "-D", ".", "--page-server", "--port", "1", "--address", "192.0.2.1"], "plain TCP"),
        (["page-server", "-D", "."], "--port: is missing"),
        (["page-server", "-D", ".", "--port", "1", "--address", "host"], "not an IP address"),
        (["pre-dump", "-t", "1", "-D", ".", "--port", "1"], "are of a page server"),
    ],
)
def test_memory_crosses_no_network_unasked(arguments: list[str], match: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=match):
        run_command([str(tmp_path) if word == "." else word for word in arguments])
