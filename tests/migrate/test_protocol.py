"""The protocol through real processes: keepers as daemons and children, `migrate dest` on sockets, pages by SCM_RIGHTS.

Only SSH is missing, and the engines move files instead of processes.
"""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.errors import Blocker
from migrate import dest, events
from migrate.engine import Keeper, Peer, line_over, spawn_source_keeper
from migrate.errors import ConnectionLost, OutOfOrder
from migrate.journal import STATE_DIR_VARIABLE, Journal, Role
from migrate.keeper.parked import Parked
from migrate.machine import CopyState, State
from migrate.messages import blocker_to_text, decode, encode
from migrate.pb import control_pb2 as pb
from migrate.resolve import Means, greet, resolve
from migrate.source import migrate_process
from migrate.transport.frames import PREFACE, FrameDecoder, encode_frame
from migrate.world import MigrationRequest, Outcome, PageStream, SourceView, World
from tests.fakes import file_engines
from tests.waiting import wait_until

ENGINE = "tests.fakes.file_engines"
ROOT = Path(__file__).resolve().parents[2]
ID = "proc1"


@dataclass(slots=True)
class LocalStream:
    """`migrate dest --pages` as a thread."""

    fd: int
    thread: threading.Thread

    def close_local(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    async def close(self) -> None:
        self.close_local()


@dataclass(slots=True)
class LocalFar:
    """The way to a destination in this process: `migrate dest` at the other end of a socket pair."""

    journal: Journal
    answer: pb.CheckAnswer = field(default_factory=pb.CheckAnswer)
    reachable: bool = True
    notices: Sequence[str] = ()
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def host(self) -> dest.Host:
        parked = Parked(file_engines.resume_parked, file_engines.kill_parked, file_engines.find_parked)
        return dest.Host(pb.HostFacts, lambda target: self.answer, parked, ENGINE, self.journal)

    async def serve(self) -> Peer:
        return await self._serve(None)

    async def attach(self, migration_id: str) -> Peer:
        return await self._serve(migration_id)

    async def _serve(self, migration_id: str | None) -> Peer:
        if not self.reachable:
            raise ConnectionLost("host-b: no route")
        near, far = socket.socketpair()
        line = await line_over(far, "coordinator")

        async def work() -> None:
            try:
                if migration_id is None:
                    await dest.serve_stdio(line.channel, self.host())
                else:
                    await dest.serve_attach(line.channel, self.host(), migration_id)
            finally:
                await line.close()

        self.tasks.append(asyncio.create_task(work()))
        return Peer(await line_over(near, "destination"), "destination")

    async def open_page_stream(self, migration_id: str) -> LocalStream:
        read_fd, write_fd = os.pipe()

        def pages() -> None:
            try:
                dest.serve_pages(migration_id, read_fd, self.journal)
            finally:
                os.close(read_fd)

        thread = threading.Thread(target=pages, daemon=True)
        thread.start()
        return LocalStream(write_fd, thread)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass(slots=True)
class Hosts:
    """Two state directories, and the files that stand for the processes."""

    source: Journal
    destination: Journal
    far: LocalFar
    files: Path
    told: list[events.Event] = field(default_factory=list)
    keeper: Keeper | None = None

    def world(self) -> World:
        async def spawn(migration_id: str, streams: Sequence[PageStream], lock_fd: int) -> Keeper:
            fds = [stream.fd for stream in streams]
            self.keeper = await spawn_source_keeper(
                migration_id, self.source, page_streams=fds, lock_fd=lock_fd, engine=ENGINE
            )
            return self.keeper

        return World(
            journal=self.source, far=self.far, examine=lambda request: SourceView(pb.TargetFacts(pids=[request.pid])),
            start_time=lambda pid: 1, spawn_keeper=spawn, parked=self.parked(), sleep=asyncio.sleep,
            now=asyncio.get_running_loop().time, new_id=lambda: ID,
        )  # fmt: skip

    def parked(self) -> Parked:
        def resume(cgroup: str) -> None:
            (self.files / "target").write_text("running")

        kill = (self.files / "target").unlink
        return Parked(resume, lambda cgroup: kill(missing_ok=True), lambda pid, migration_id: "")

    def state(self, name: str) -> str:
        path = self.files / name
        return path.read_text() if path.exists() else "gone"

    async def migrate(self, **wishes: object) -> Outcome:
        request = MigrationRequest(pid=4711, destination="root@host-b", **wishes)  # type: ignore[arg-type]
        return (await migrate_process(request, self.told.append, self.world())).outcome

    def copy_state(self) -> str:
        entry = self.destination.read(ID, Role.DESTINATION)
        return entry.state if entry else ""


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    files = tmp_path / "files"
    files.mkdir()
    (files / "target").write_text("running")
    monkeypatch.setenv("FAKE_ENGINES", str(files))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv(STATE_DIR_VARIABLE, raising=False)
    destination = Journal(tmp_path / "b")
    yield Hosts(Journal(tmp_path / "a"), destination, LocalFar(destination), files)


@asynccontextmanager
async def prepared(hosts: Hosts) -> AsyncIterator[Peer]:
    """A destination that agreed, and its control connection."""
    peer = await hosts.far.serve()
    await greet(peer)
    await peer.ask(pb.Agree(migration_id=ID, root_pid=4711), pb.Agreed)
    try:
        yield peer
    finally:
        await peer.close()
        await hosts.far.close()


async def make_ready(peer: Peer) -> None:
    await peer.ask(pb.Round(number=1), pb.RoundReady)
    await peer.ask(pb.RoundEnd(number=1), pb.RoundLanded)
    await peer.ask(pb.Finish(images=b"x"), pb.Ready)


@pytest.mark.parametrize("streams", [1, 3])
def test_a_migration_goes_through_keepers_and_page_streams(hosts: Hosts, streams: int) -> None:
    assert asyncio.run(hosts.migrate(streams=streams)) is Outcome.DONE
    assert (hosts.state("target"), hosts.state("copy")) == ("gone", "running")
    assert hosts.source.require(ID, Role.SOURCE).state == State.DONE
    assert hosts.copy_state() == CopyState.RESUMED
    done = hosts.told[-1]
    assert isinstance(done, events.Done) and done.pages >= 200_000
    assert [event for event in hosts.told if isinstance(event, events.RoundProgress)]


def test_the_keepers_leave_nothing_behind_but_journal_log_and_lock(hosts: Hosts) -> None:
    asyncio.run(hosts.migrate())
    socket_path = hosts.destination.socket_path(ID)
    wait_until(lambda: not socket_path.exists(), "the destination's keeper removes its socket")
    left = sorted(str(path.relative_to(hosts.destination.state_dir)) for path in hosts.destination.state_dir.rglob("*"))
    assert left == [
        "log", f"log/{ID}.destination.log", "proc1.destination.json", "proc1.destination.lock", "run"
    ]  # fmt: skip


def test_a_refusal_starts_no_keeper(hosts: Hosts) -> None:
    hosts.far.answer = pb.CheckAnswer(blockers=[blocker_to_text(Blocker("pid", "pid 4711", "is taken over there"))])
    assert asyncio.run(hosts.migrate()) is Outcome.REFUSED
    assert not hosts.destination.state_dir.exists()


def test_hello_must_come_first(hosts: Hosts) -> None:
    async def run() -> None:
        peer = await hosts.far.serve()
        with pytest.raises(OutOfOrder, match="before Hello"):
            await peer.ask(pb.Check(), pb.CheckAnswer)
        await peer.close()
        await hosts.far.close()

    asyncio.run(run())


def test_a_ready_copy_survives_its_connection_and_resumes_by_attach(hosts: Hosts) -> None:
    async def run() -> None:
        async with prepared(hosts) as peer:
            await make_ready(peer)
            await peer.close()
            again = await hosts.far.attach(ID)
            await greet(again)
            status = await again.ask(pb.Status(migration_id=ID), pb.StatusAnswer)
            assert (status.state, hosts.state("copy")) == (CopyState.READY, "frozen")
            await again.ask(pb.Resume(migration_id=ID), pb.Resumed)
            await again.ask(pb.Resume(migration_id=ID), pb.Resumed)  # told twice is no error
            with pytest.raises(OutOfOrder, match="RESUMED"):
                await again.ask(pb.Abort(migration_id=ID), pb.Aborted)
            await again.close()

    asyncio.run(run())
    assert hosts.state("copy") == "running"


def test_the_journal_answers_when_the_keeper_was_killed(hosts: Hosts) -> None:
    async def run() -> None:
        async with prepared(hosts) as peer:
            await make_ready(peer)
            kill(keeper_pid())
            with pytest.raises(ConnectionLost):
                await peer.ask(pb.Resume(migration_id=ID), pb.Resumed)
            again = await hosts.far.attach(ID)
            await greet(again)
            await again.ask(pb.Resume(migration_id=ID), pb.Resumed)
            await again.close()

    asyncio.run(run())
    assert (hosts.state("copy"), hosts.copy_state()) == ("running", CopyState.RESUMED)


def test_a_new_control_connection_replaces_the_old_one(hosts: Hosts) -> None:
    async def run() -> None:
        async with prepared(hosts) as peer:
            again = await hosts.far.attach(ID)
            await greet(again)
            await again.ask(pb.Status(migration_id=ID), pb.StatusAnswer)
            with pytest.raises(ConnectionLost):
                await peer.ask(pb.Round(number=1), pb.RoundReady)
            await again.ask(pb.Abort(migration_id=ID), pb.Aborted)
            await again.close()

    asyncio.run(run())
    assert hosts.copy_state() == CopyState.ABORTED


def test_the_source_keeper_thaws_when_its_coordinator_dies(hosts: Hosts) -> None:
    async def run() -> None:
        world = hosts.world()
        await hosts_with_frozen_target(hosts, world)
        assert hosts.state("target") == "frozen"
        assert hosts.keeper is not None
        await hosts.keeper.stop()

    asyncio.run(run())
    assert hosts.state("target") == "running"
    assert hosts.source.require(ID, Role.SOURCE).state == State.ROLLED_BACK


def test_after_the_hand_over_the_source_keeper_leaves_the_freeze(hosts: Hosts) -> None:
    async def run() -> None:
        world = hosts.world()
        await hosts_with_frozen_target(hosts, world)
        assert hosts.keeper is not None
        await hosts.keeper.ask(pb.HandOver(), pb.HandedOver)
        await hosts.keeper.stop()
        assert hosts.state("target") == "frozen"
        async with prepared(hosts) as peer:
            await make_ready(peer)
            await peer.close()
            means = Means(hosts.source, hosts.far, hosts.parked(), asyncio.sleep)
            settled = await resolve(means, ID)
            assert settled.state is State.DONE

    asyncio.run(run())
    assert (hosts.state("target"), hosts.state("copy")) == ("gone", "running")


def test_dest_answers_hello_on_standard_input_and_output(hosts: Hosts) -> None:
    command = [sys.executable, "-c", "from migrate import wiring; wiring.serve_stdio(None)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        hello = encode(pb.Hello(protocol_min=1, protocol_max=1))
        process.stdin.write(PREFACE + encode_frame(hello))
        process.stdin.close()
        (answer,) = FrameDecoder("dest").feed(process.stdout.read())
    found = decode(answer)
    assert isinstance(found, pb.HelloAnswer) and found.host.hostname == socket.gethostname()
    assert process.returncode == 0


async def hosts_with_frozen_target(hosts: Hosts, world: World) -> None:
    """A source keeper that froze the target for a migration whose journal says so."""
    from migrate.journal import Entry, read_boot_id

    entry = Entry(ID, Role.SOURCE, "", 4711, 1, read_boot_id(), peer="root@host-b", cgroup=file_engines.CGROUP)
    hosts.source.write(entry.entered(State.FROZEN))
    keeper = await world.spawn_keeper(ID, [], os.open("/dev/null", os.O_RDONLY))
    await keeper.ask(pb.Attach(pid=4711), pb.Attached)
    await keeper.ask(pb.Freeze(), pb.Frozen)


def kill(pid: int) -> None:
    """SIGKILL; its descriptors are closed when this returns: nobody can connect to it any more."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], 60)[0], f"pid {pid} does not end"
    finally:
        os.close(pidfd)


def keeper_pid() -> int:
    """The destination's keeper of ID, by its command line: it is nobody's child."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
            starts_here = (path.parent / "environ").read_bytes()
        except OSError:
            continue
        if {"destination", ID, ENGINE} <= set(words) and os.environ["FAKE_ENGINES"].encode() in starts_here:
            return int(path.parent.name)
    raise AssertionError("no keeper")
