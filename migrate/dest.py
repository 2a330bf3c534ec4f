"""`migrate dest`: the far end of the SSH connection. Answers Hello and Check, starts the keeper at Agree, then relays.

    migrate dest                 a new migration
    migrate dest --attach ID     speak with the keeper again, or for it when it is gone
    migrate dest --pages ID      hand our standard input to the keeper as a page stream

Decides nothing about copies: the keeper and its journal do.
"""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from google.protobuf.message import Message as Body

from core.errors import MigrateError
from migrate.engine import Channel, Line, line_over, spawn_destination_keeper
from migrate.errors import ConnectionLost, OutOfOrder, ProtocolError
from migrate.journal import Journal
from migrate.keeper.listener import CONTROL, PAGES, connect
from migrate.keeper.parked import Parked, parked_copy
from migrate.messages import (
    PROTOCOL_VERSION,
    VERSION,
    agree_on_version,
    decode,
    encode,
    failure_of,
)
from migrate.pb import control_pb2 as pb
from migrate.sync_files import FileSink


@dataclass(frozen=True, slots=True)
class Host:
    """What `migrate dest` needs of the host it runs on."""

    facts: Callable[[], pb.HostFacts]
    judge: Callable[[pb.TargetFacts], pb.CheckAnswer]
    parked: Parked
    engine: str
    journal: Journal = field(default_factory=Journal.default)


async def serve_stdio(channel: Channel, host: Host) -> None:
    """Serve a new migration on `channel` until either side hangs up."""
    frame = await _answer_until(channel, host, (pb.Agree,))
    if frame is None:
        return
    agree = decode(frame)
    assert isinstance(agree, pb.Agree)
    try:
        path = await spawn_destination_keeper(agree.migration_id, host.journal, engine=host.engine)
        keeper = await line_over(connect(str(path), CONTROL), "keeper")
    except (MigrateError, OSError) as error:
        await channel.send(encode(failure_of(_as_ours(error, agree.migration_id))))
        return
    await _relay(channel, keeper, frame)


async def serve_attach(channel: Channel, host: Host, migration_id: str) -> None:
    """Serve a migration that this host knows already."""
    frame = await _answer_until(channel, host, (pb.Status, pb.Resume, pb.Abort))
    if frame is None:
        return
    try:
        connection = connect(str(host.journal.socket_path(migration_id)), CONTROL)
    except MigrateError as error:
        await channel.send(encode(failure_of(error)))
    except OSError:  # nobody listens
        await _speak_for_keeper(channel, host, migration_id, frame)
    else:
        await _relay(channel, await line_over(connection, "keeper"), frame)


def serve_pages(migration_id: str, stream_fd: int, journal: Journal) -> None:
    """Hand `stream_fd` to the keeper; blocks until the keeper has no use for it any more."""
    try:
        connection = connect(str(journal.socket_path(migration_id)), PAGES, (stream_fd,))
    except OSError as error:
        raise ConnectionLost(f"keeper of migration {migration_id}: cannot be reached: {error.strerror}") from error
    with connection, contextlib.suppress(OSError):
        connection.recv(1)


async def _answer_until(channel: Channel, host: Host, handed_on: tuple[type[Body], ...]) -> bytes | None:
    """Answer Hello, Check and files; the first frame of a kind in `handed_on`, None when the other side hangs up."""
    greeted = False
    with closing(FileSink()) as sink:
        while True:
            try:
                frame = await channel.recv()
            except (MigrateError, OSError):
                return None
            if frame is None:
                return None
            try:
                request = decode(frame)
                if not greeted and not isinstance(request, pb.Hello):
                    raise OutOfOrder(f"{type(request).__name__}: came before Hello")
                greeted = True
                if isinstance(request, handed_on):
                    return frame
                answer: Body = await asyncio.to_thread(_answer, request, host, sink)
            except (MigrateError, OSError) as error:
                answer = failure_of(error)
            await channel.send(encode(answer))


def _answer(request: Body, host: Host, sink: FileSink) -> Body:
    match request:
        case pb.Hello():
            protocol = agree_on_version(request)
            return pb.HelloAnswer(protocol=protocol, version=VERSION, host=host.facts())
        case pb.Check():
            return host.judge(request.target)
        case pb.FileHead():
            return sink.begin(request)
        case pb.FilePiece():
            return sink.take(request)
    raise ProtocolError(f"{type(request).__name__}: cannot be answered now (protocol {PROTOCOL_VERSION})")


async def _speak_for_keeper(channel: Channel, host: Host, migration_id: str, first: bytes) -> None:
    try:
        with parked_copy(host.journal, migration_id, host.parked) as keeper:
            frame: bytes | None = first
            while frame is not None:
                answer = keeper.answer(decode(frame))
                await channel.send(encode(answer or failure_of(OutOfOrder("round: there is no keeper"))))
                frame = await channel.recv()
    except ConnectionLost:
        return
    except MigrateError as error:
        await channel.send(encode(failure_of(error)))


async def _relay(channel: Channel, keeper: Line, first: bytes) -> None:
    """Messages both ways, unread, until one side hangs up; then the keeper's line is closed."""
    try:
        await keeper.channel.send(first)
        pumps = [
            asyncio.ensure_future(_pump(channel, keeper.channel)),
            asyncio.ensure_future(_pump(keeper.channel, channel)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
    finally:
        await keeper.close()


async def _pump(origin: Channel, target: Channel) -> None:
    with contextlib.suppress(MigrateError, OSError):
        while (message := await origin.recv()) is not None:
            await target.send(message)


def _as_ours(error: MigrateError | OSError, migration_id: str) -> Exception:
    if isinstance(error, MigrateError):
        return error
    return ConnectionLost(f"keeper of migration {migration_id}: cannot be reached: {error.strerror}")
