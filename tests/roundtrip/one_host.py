"""A live move that begins and ends on this machine: the copy lives in a PID namespace of its own, so both have room."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from core import EMPTY, DumpOptions, LiveDestination, LiveSource, Parked, Ranges, RestoreOptions
from core.images.store import ImageSet
from core.options import HoldChoice, TrackChoice
from tests.roundtrip.targets import LEAF_NAME

BUFFERS = 1


class There:
    """The destination in a thread of its own: both halves may be in IPC namespaces that are not ours."""

    def __init__(self, destination: LiveDestination) -> None:
        self.destination = destination
        self._thread = ThreadPoolExecutor(max_workers=1)

    def prepare(self, pid: int) -> None:
        """As the destination's."""
        self._thread.submit(self.destination.prepare, None, pid).result()

    def begin_round(self, tree: ImageSet, memories: Mapping[int, ImageSet]) -> list[int]:
        """As the destination's."""
        return self._thread.submit(self.destination.begin_round, tree, memories).result()

    def finish(self, images: ImageSet, gone: Mapping[int, Ranges]) -> Parked:
        """As the destination's."""
        return self._thread.submit(self.destination.finish, images, gone).result()

    def resume(self) -> None:
        """As the destination's."""
        self._thread.submit(self.destination.resume).result()

    def abort(self) -> None:
        """As the destination's."""
        self._thread.submit(self.destination.abort).result()

    def close(self) -> None:
        """Nothing of a copy that was not told to run is left."""
        self.abort()
        self._thread.shutdown()


@dataclass(frozen=True, slots=True)
class Move:
    """Both halves when the copy is ready and the source held."""

    source: LiveSource
    there: There
    parked: Parked

    def commit(self) -> int:
        """Resume the copy and end the source; the copy's PID here."""
        self.there.resume()
        self.source.kill()
        return self.parked.pids[0]


@contextmanager
def moved(
    pid: int,
    hold: HoldChoice,
    *,
    track: TrackChoice | None = None,
    between: Sequence[Callable[[], None]] = (),
    give_up: bool = False,
) -> Iterator[Move]:
    """`pid`, live, up to the moment before the resume. Copy and source are gone at the end.

    `between`: called after the first round, each followed by another one. `give_up`: the source is let go instead.
    """
    source = LiveSource(pid, LEAF_NAME, DumpOptions(hold=hold, track=track))
    there = There(LiveDestination(f"{LEAF_NAME}-copy", RestoreOptions(pid_mode="namespace", hold=hold)))
    try:
        yield Move(source, there, _move(source, there, between))
    finally:
        there.close()
        if give_up:
            source.thaw()
        else:
            source.kill()
        source.close()


def _move(source: LiveSource, there: There, between: Sequence[Callable[[], None]]) -> Parked:
    source.attach()
    there.prepare(source.pid)
    _round(source, there, source.scan().tree)
    for act in between:
        act()
        _round(source, there, source.scan().tree)
    froze = source.freeze()
    _round(source, there, froze.tree)
    parked = there.finish(froze.images, froze.gone)
    source.hold()
    return parked


def _round(source: LiveSource, there: There, tree: ImageSet) -> None:
    processes = {process.own_pid: process for process in source.processes.values()}
    destination = there.destination
    fresh = there.begin_round(tree, {pid: process.memory for pid, process in processes.items()})
    for pid, process in processes.items():
        if pid in fresh:
            process.forget_sent()
        reader, landing = process.page_reader(BUFFERS), destination.landing_memory(pid)
        reader.missing = EMPTY
        for start, content in reader.read(process.pending):
            landing.land(Ranges.of([(start, start + len(content))]), content)
        process.was_sent(reader.missing)
    landings = destination.landing_files() | {id: destination.segments.landing(id) for id in destination.segments.ids()}
    for file in source.files:
        for start, content in file.read(file.pending):
            landings[file.memory_id].land(Ranges.of([(start, start + len(content))]), content)
        landings[file.memory_id].zero(file.holes)
        file.was_sent()
