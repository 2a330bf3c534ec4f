"""Engines for keepers in processes of their own: the "processes" are files below FAKE_ENGINES, pages are single bytes.

`target` and `copy` hold "running" or "frozen"; absent means there is none.
"""

import os
import select
from collections.abc import Callable, Sequence
from pathlib import Path

from migrate.pb import control_pb2 as pb

CGROUP = "/fake/cgroup"
DIRTY_PAGES = (200_000, 1000, 10)  # the first is more than pipes and sockets hold


def root() -> Path:
    return Path(os.environ["FAKE_ENGINES"])


class FileSourceEngine:
    def __init__(self, migration_id: str, page_streams: Sequence[int]) -> None:
        self._streams = list(page_streams)
        self._pending = 0
        self._held = False

    def attach(self, request: pb.Attach) -> pb.Attached:
        return pb.Attached(target=pb.TargetFacts(pids=[request.pid]), cgroup=CGROUP, vmas=10)

    def scan(self, number: int) -> pb.Scanned:
        self._pending = DIRTY_PAGES[min(number, len(DIRTY_PAGES)) - 1]
        return pb.Scanned(round=pb.Round(number=number), pages=self._pending)

    def send_pages(self, number: int, fresh: Sequence[int], progress: Callable[[pb.Progress], None]) -> pb.PagesSent:
        left = self._pending
        while left:
            left -= os.write(self._streams[left % len(self._streams)], bytes(min(left, 4096)))
            progress(pb.Progress(phase="pages", done_pages=self._pending - left, sent_bytes=self._pending - left))
        end = pb.RoundEnd(number=number, pages=self._pending)
        return pb.PagesSent(end=end, sent_bytes=self._pending)

    def freeze(self) -> pb.Frozen:
        (root() / "target").write_text("frozen")
        self._pending = 7
        return pb.Frozen(round=pb.Round(number=1), pages=7, finish=pb.Finish(images=b"x"))

    def hand_over(self) -> pb.HandedOver:
        self._held = True
        return pb.HandedOver()

    def release(self) -> None:
        (root() / "target").unlink(missing_ok=True)

    def thaw(self) -> None:
        (root() / "target").write_text("running")

    def throttle(self, share: float) -> pb.Throttled:
        return pb.Throttled(possible=False, reason="only files")

    def close(self) -> None:
        for fd in self._streams:
            os.close(fd)
        self._streams = []


class FileDestinationEngine:
    def __init__(self, migration_id: str) -> None:
        self._streams: list[int] = []
        self._landed = 0

    def prepare(self, request: pb.Agree) -> pb.Agreed:
        return pb.Agreed(cgroup=CGROUP)

    def add_stream(self, fd: int) -> None:
        self._streams.append(fd)

    def begin_round(self, request: pb.Round) -> Sequence[int]:
        self._landed = 0
        return []

    def land(self, end: pb.RoundEnd | None, wake: Sequence[int]) -> pb.RoundLanded | None:
        poll = select.poll()
        for fd in (*wake, *self._streams):
            poll.register(fd, select.POLLIN)
        while end is None or self._landed < end.pages:
            ready = {fd for fd, _ in poll.poll()}
            for fd in ready & set(self._streams):
                self._landed += len(os.read(fd, 1 << 16))
            if ready & set(wake):
                return None
        return pb.RoundLanded(number=end.number, pages=self._landed)

    def finish(self, request: pb.Finish) -> pb.Ready:
        (root() / "copy").write_text("frozen")
        return pb.Ready(cgroup=CGROUP, pids=[4711])

    def resume(self) -> Sequence[pb.PhaseTime]:
        resume_copy()
        return ()

    def abort(self) -> None:
        kill_copy()

    def close(self) -> None:
        for fd in self._streams:
            os.close(fd)
        self._streams = []


def resume_copy(cgroup: str = CGROUP) -> None:
    (root() / "copy").write_text("running")


def kill_copy(cgroup: str = CGROUP) -> None:
    (root() / "copy").unlink(missing_ok=True)


source_engine = FileSourceEngine
destination_engine = FileDestinationEngine
resume_parked = resume_copy
kill_parked = kill_copy


def find_parked(pid: int, migration_id: str) -> str:
    return ""
