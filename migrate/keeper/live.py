"""The engines of a real migration: core's live halves, spoken to in the control protocol's messages.

Turns messages into calls and back, and joins pages with their streams; decides nothing.
"""

import logging
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Literal, cast

from core import (
    EMPTY,
    ImageSet,
    LandingFile,
    LandingMemory,
    LiveDestination,
    LiveSource,
    decode_stream,
    encode_stream,
    find_leaf,
    remove_parked,
    resume_parked,
)
from core.errors import KernelLacks, PageStreamError, TraceeError
from migrate.errors import OutOfOrder, ProtocolError
from migrate.journal import Journal
from migrate.keeper.landing import Landing
from migrate.keeper.reporter import Reporter, count_all
from migrate.keeper.runs import make_runs, parse_runs
from migrate.keeper.wishes import NEW_TERMINAL, dump_options, phase_times, restore_options
from migrate.pagesrv.lander import PageLander
from migrate.pagesrv.receiver import PageReceiver
from migrate.pagesrv.sender import PageSender, RoundCount
from migrate.pb import control_pb2 as pb
from migrate.terminal.keeping import TerminalKeeper, refuse_no_terminal

log = logging.getLogger(__name__)

SEND_BUFFERS = 3
MOULD = 0  # the memory of what several have in common; all others have their process's own pid


class LiveSourceEngine:
    """SourceEngine over core.LiveSource."""

    def __init__(self, migration_id: str, page_fds: Sequence[int]) -> None:
        self._id = migration_id
        self._page_fds = list(page_fds)
        self._live: LiveSource | None = None
        self._sender: PageSender | None = None
        self._told: dict[int, ImageSet] = {}  # address spaces as the last round told of them, by own pid

    def attach(self, request: pb.Attach) -> pb.Attached:
        """See SourceEngine."""
        live = self._live = LiveSource(request.pid, f"migrate-{self._id}", dump_options(request))
        live.attach()
        self._sender = PageSender(
            self._page_fds[0], cast(Literal["auto", "zstd", "none"], request.compress or "auto"),
            request.bandwidth_bytes_per_s,
        )  # fmt: skip
        processes = live.processes.values()
        return pb.Attached(
            threads=count_all(live.reader.tids, live.everybody), fds=count_all(live.reader.fds, live.everybody),
            vmas=sum(len(process.prepared.vma_flags) for process in processes), tasks=len(live.everybody),
            tracker=next(process.tracker_name for process in processes),
            cgroup=live.holder.path if live.holder else "",
            stopped_seconds=live.stopped_s, notices=[pb.Notice(text=text) for text in live.notices],
        )  # fmt: skip

    def _attached(self) -> LiveSource:
        if self._live is None:
            raise OutOfOrder("the source is not attached")
        return self._live

    def scan(self, number: int) -> pb.Scanned:
        """See SourceEngine."""
        began = time.monotonic()
        scanned = self._attached().scan()
        round_, pages = self._round(number, scanned.tree), self._pending_pages()
        if scanned.mould:
            mould = EMPTY.union(*scanned.mould.values())
            round_.mould.CopyFrom(make_runs(MOULD, mould))
            pages = mould.total_pages
        return pb.Scanned(
            round=round_, pages=pages, seconds=time.monotonic() - began, stopped_seconds=scanned.stopped_s,
            compared_seconds=scanned.compared_s,
        )  # fmt: skip

    def _pending_pages(self) -> int:
        live = self._attached()
        own = sum(process.pending.total_pages for process in live.processes.values())
        return own + sum(file.pending.total_pages for file in live.files)

    def _round(self, number: int, tree: ImageSet) -> pb.Round:
        """Everybody's address space; a memory's number is its process's own pid."""
        processes = self._attached().processes.values()
        before, self._told = self._told, {process.own_pid: process.memory for process in processes}
        memories = [
            pb.Memory(mm_id=pid, pid=pid, mm_image=b"" if before.get(pid) is memory else encode_stream(memory))
            for pid, memory in self._told.items()
        ]
        kept = [make_runs(process.own_pid, process.kept) for process in processes if process.kept]
        return pb.Round(number=number, memories=memories, tree=encode_stream(tree), kept=kept)

    def send_pages(self, number: int, fresh: Sequence[int], progress: Callable[[pb.Progress], None]) -> pb.PagesSent:
        """See SourceEngine."""
        if self._sender is None:
            raise OutOfOrder("the source is not attached")
        live = self._attached()
        if live.mould:
            self._send_mould(number, self._sender, progress)
        else:
            self._send_pending(number, self._sender, fresh, progress)
        total = self._sender.end_round(number)
        end = pb.RoundEnd(number=number, frames=total.frames, pages=total.pages, bytes=total.raw_bytes)
        return pb.PagesSent(
            end=end, raw_bytes=total.raw_bytes, zero_pages=total.zero_pages, sent_bytes=total.sent_bytes,
            seconds=total.seconds,
        )  # fmt: skip

    def _send_pending(
        self, number: int, sender: PageSender, fresh: Sequence[int], progress: Callable[[pb.Progress], None]
    ) -> None:
        live = self._attached()
        report = Reporter(progress, self._pending_pages())
        for process in live.processes.values():
            try:
                if process.own_pid in fresh:
                    process.forget_sent()
                reader = process.page_reader(SEND_BUFFERS)
                part = sender.send_round(number, process.own_pid, reader, process.pending, report)
            except TraceeError:
                if not live.has_left(process.pid):
                    raise
                continue  # a child that has just ended: the next round does without it
            report.add(part.pages, part.sent_bytes)
            process.was_sent(part.missing)
        for file in live.files:
            content = file.buffers(SEND_BUFFERS)
            part = sender.send_round(number, file.memory_id, content, file.pending, report, zero=file.holes)
            report.add(part.pages, part.sent_bytes)
            file.was_sent()

    def _send_mould(self, number: int, sender: PageSender, progress: Callable[[pb.Progress], None]) -> None:
        live = self._attached()
        report = Reporter(progress, sum(ranges.total_pages for ranges in live.mould.values()))
        for process in live.processes.values():
            ranges = live.mould.get(process.own_pid, EMPTY)
            try:
                part = sender.send_round(number, MOULD, process.page_reader(SEND_BUFFERS), ranges, report)
            except TraceeError:
                if not live.has_left(process.pid):
                    raise
                live.lacks_of_mould(process.own_pid, ranges)
                continue
            report.add(part.pages, part.sent_bytes)
            live.lacks_of_mould(process.own_pid, part.missing)

    def freeze(self) -> pb.Frozen:
        """See SourceEngine."""
        asked = time.time()
        froze = self._attached().freeze()
        gone = [make_runs(pid, runs) for pid, runs in froze.gone.items()]
        round_ = self._round(0, froze.tree)
        round_.last = True
        return pb.Frozen(
            round=round_, finish=pb.Finish(images=encode_stream(froze.images), gone=gone),
            pages=self._pending_pages(), phases=phase_times(froze.phases), at_realtime=asked + froze.ran_s,
            ran_seconds=froze.ran_s,
        )  # fmt: skip

    def hand_over(self) -> pb.HandedOver:
        """See SourceEngine."""
        began = time.monotonic()
        self._attached().hold()
        return pb.HandedOver(phases=phase_times([("hold", time.monotonic() - began)]))

    def release(self) -> None:
        """See SourceEngine."""
        self._attached().kill()

    def thaw(self) -> None:
        """See SourceEngine."""
        if self._live is not None:
            self._live.thaw()

    def throttle(self, share: float) -> pb.Throttled:
        """See SourceEngine."""
        try:
            self._attached().throttle(share)
        except KernelLacks as error:
            return pb.Throttled(possible=False, reason=str(error))
        return pb.Throttled(possible=True)

    def close(self) -> None:
        """See SourceEngine."""
        if self._live is not None:
            self._live.close()


class LiveDestinationEngine:
    """DestinationEngine over core.LiveDestination."""

    def __init__(self, migration_id: str) -> None:
        self._id = migration_id
        self._live: LiveDestination | None = None
        self._streams: list[int] = []
        self._receivers: list[PageReceiver] = []
        self._landings: list[Landing] = []
        self._memories: dict[int, LandingMemory | LandingFile] = {}
        self._images: dict[int, ImageSet] = {}  # of the last round's address spaces, by own pid
        self._number: int | None = None
        self._resumed = False
        self._terminal: TerminalKeeper | None = None
        self._notices: list[str] = []

    def prepare(self, request: pb.Agree) -> pb.Agreed:
        """See DestinationEngine."""
        options = restore_options(request)
        if options.terminal:
            refuse_no_terminal(options.terminal)
        self._live = LiveDestination(f"migrate-{self._id}-copy", options)
        if request.tty == NEW_TERMINAL:
            self._terminal = TerminalKeeper(Journal.default(), self._id)
            self._live.keep_terminal = self._keep_terminal
        return pb.Agreed(cgroup=self._live.prepare(request.target.cgroup or None, request.root_pid))

    def _keep_terminal(self, master: int, pid: int) -> None:
        if self._terminal is None:
            raise OutOfOrder("the copy has a terminal already")
        self._terminal.keep(master, pid)
        self._notices = [f"its terminal is kept there: migrate attach {self._id}"]
        self._leave_terminal()

    def _leave_terminal(self) -> None:
        if self._terminal is not None:
            self._terminal.close()
            self._terminal = None

    def _prepared(self) -> LiveDestination:
        if self._live is None:
            raise OutOfOrder("the destination is not prepared")
        return self._live

    def add_stream(self, fd: int) -> None:
        """See DestinationEngine."""
        self._streams.append(fd)
        self._receivers.append(PageReceiver(fd, PageLander(self._memories)))
        if self._number is not None:
            self._landings.append(Landing(self._receivers[-1], self._number))

    def begin_round(self, request: pb.Round) -> Sequence[int]:
        """See DestinationEngine."""
        live = self._prepared()
        before, self._images = self._images, {}
        for memory in request.memories:
            if not memory.mm_image and memory.pid not in before:
                reason = f"round {request.number}: the address space of pid {memory.pid} was never told"
                raise ProtocolError(reason, hint="install the same version of migrate on both hosts")
            # The very same set is planned already.
            self._images[memory.pid] = decode_stream(memory.mm_image) if memory.mm_image else before[memory.pid]
        tree = decode_stream(request.tree)
        self._memories.clear()
        fresh: Sequence[int] = ()
        if request.HasField("mould"):
            self._memories[MOULD] = live.begin_mould(tree, self._images, parse_runs(request.mould))
        else:
            fresh = live.begin_round(tree, self._images, {runs.mm_id: parse_runs(runs) for runs in request.kept})
            self._memories.update(live.landing_files())
            self._memories.update({memory.mm_id: live.landing_memory(memory.pid) for memory in request.memories})
            self._memories.update({id: live.segments.landing(id) for id in live.segments.ids()})
        self._number = request.number
        self._landings = [Landing(receiver, request.number) for receiver in self._receivers]
        return fresh

    def land(self, end: pb.RoundEnd | None, wake: Sequence[int]) -> pb.RoundLanded | None:
        """See DestinationEngine."""
        poll = select.poll()
        for fd in wake:
            poll.register(fd, select.POLLIN)
        while True:
            landed = self._landed(end)
            if landed is not None:
                return landed
            watched = [landing.done for landing in self._landings if landing.is_alive()]
            for fd in watched:
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            for fd in watched:
                poll.unregister(fd)
            self._raise_broken()
            if ready & set(wake):
                return None
            for landing in self._landings:
                if landing.done in ready:
                    landing.join()

    def _raise_broken(self) -> None:
        for landing in self._landings:
            if landing.error is not None:
                raise landing.error

    def _landed(self, end: pb.RoundEnd | None) -> pb.RoundLanded | None:
        """The round's answer when every stream has come to its end."""
        self._raise_broken()
        if end is None or not self._landings or any(landing.is_alive() for landing in self._landings):
            return None
        total = RoundCount()
        for landing in self._landings:
            total = total.plus(landing.count)
            landing.close()
        self._landings, self._number = [], None
        if (total.frames, total.pages) != (end.frames, end.pages):
            raise PageStreamError(f"round {end.number}: {end.pages} pages were sent, {total.pages} landed")
        return pb.RoundLanded(number=end.number, frames=total.frames, pages=total.pages, seconds=total.seconds)

    def finish(self, request: pb.Finish) -> pb.Ready:
        """See DestinationEngine."""
        gone = {runs.mm_id: parse_runs(runs) for runs in request.gone}
        parked = self._prepared().finish(decode_stream(request.images), gone)
        notices = [*parked.notices, *self._notices]
        return pb.Ready(phases=phase_times(parked.phases), cgroup=parked.cgroup, notices=notices, pids=parked.pids)

    def resume(self) -> Sequence[pb.PhaseTime]:
        """See DestinationEngine."""
        began = time.monotonic()
        self._prepared().resume()
        self._resumed = True
        return phase_times([("thaw", time.monotonic() - began)])

    def abort(self) -> None:
        """See DestinationEngine."""
        self._close_streams()
        self._leave_terminal()
        if self._live is not None:
            self._live.abort()

    def close(self) -> None:
        """See DestinationEngine. A copy that runs gets rid of what held it."""
        self._close_streams()
        self._leave_terminal()
        if self._resumed:
            try:
                for notice in self._prepared().let_go():
                    log.warning("%s", notice)
            except OSError as error:  # its parent takes no processes: the copy stays in ours, which does not hurt
                log.warning("the copy stays in our cgroup: %s", error)

    def _close_streams(self) -> None:
        streams, self._streams = self._streams, []
        for fd in streams:
            os.close(fd)


def source_engine(migration_id: str, page_fds: Sequence[int]) -> LiveSourceEngine:
    """The engine of a source's keeper."""
    return LiveSourceEngine(migration_id, page_fds)


def destination_engine(migration_id: str) -> LiveDestinationEngine:
    """The engine of a destination's keeper."""
    return LiveDestinationEngine(migration_id)


def kill_parked(cgroup: str) -> None:
    """Remove a parked tree whose keeper is gone."""
    remove_parked(cgroup)


def find_parked(pid: int, migration_id: str) -> str:
    """The source's leaf, wherever a keeper that was killed before it told of it has left it; "" when nowhere."""
    return find_leaf(pid, f"migrate-{migration_id}")


__all__ = ["destination_engine", "find_parked", "kill_parked", "resume_parked", "source_engine"]
