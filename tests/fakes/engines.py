"""Engines that move nothing: they change a Reality, and pass a fault point before and after each act."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from migrate.pb import control_pb2 as pb
from tests.fakes.reality import Reality

T = TypeVar("T")
Reach = Callable[[str], None]
CGROUP = "/sys/fs/cgroup/migrate-fake"
# Dirty pages of each scan; the last one repeats.
DIRTY_PAGES = (1000, 100, 1)
PAGES_PER_S = 100_000


class FakeSourceEngine:
    """Stops the target by "ptrace" in freeze, by its cgroup in hand_over."""

    def __init__(
        self,
        reality: Reality,
        reach: Reach,
        dirty_pages: Sequence[int] = DIRTY_PAGES,
        spend: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._spend = spend
        self._reality = reality
        self._reach = reach
        self._dirty_pages = dirty_pages
        self._pending = 0

    def attach(self, request: pb.Attach) -> pb.Attached:
        self._reach("source engine: attach")
        target = pb.TargetFacts(pids=[request.pid])
        return pb.Attached(target=target, threads=1, fds=3, vmas=20, tracker="fake", cgroup=CGROUP)

    def scan(self, number: int) -> pb.Scanned:
        self._pending = self._dirty_pages[min(number, len(self._dirty_pages)) - 1]
        return pb.Scanned(round=pb.Round(number=number), pages=self._pending)

    def send_pages(self, number: int, fresh: Sequence[int], progress: Callable[[pb.Progress], None]) -> pb.PagesSent:
        self._reach("source engine: send pages")
        self._spend(self._pending / PAGES_PER_S)
        progress(pb.Progress(phase="pages", done_pages=self._pending, total_pages=self._pending))
        end = pb.RoundEnd(number=number, frames=1, pages=self._pending, bytes=self._pending * 4096)
        return pb.PagesSent(end=end, sent_bytes=self._pending * 4096)

    def freeze(self) -> pb.Frozen:
        self._reach("source engine: freeze begins")
        self._reality.target.traced_stop = True
        self._reality.check()
        self._reach("source engine: freeze done")
        self._pending = 1
        phases = [pb.PhaseTime(name="freeze", seconds=0.001), pb.PhaseTime(name="collect", seconds=0.002)]
        return pb.Frozen(round=pb.Round(number=99), finish=pb.Finish(images=b"images"), pages=1, phases=phases)

    def hand_over(self) -> pb.HandedOver:
        self._reach("source engine: hand over begins")
        self._reality.target.cgroup_frozen = True
        self._reality.target.traced_stop = False
        self._reality.check()
        self._reach("source engine: hand over done")
        return pb.HandedOver()

    def release(self) -> None:
        self._reach("source engine: release begins")
        self._reality.kill_target()
        self._reach("source engine: release done")

    def thaw(self) -> None:
        self._reach("source engine: thaw begins")
        self._reality.target.traced_stop = False
        self._reality.resume_target()
        self._reach("source engine: thaw done")

    def throttle(self, share: float) -> pb.Throttled:
        return pb.Throttled(possible=True)

    def close(self) -> None:
        self._reality.target.traced_stop = False
        self._reality.check()


class FakeDestinationEngine:
    """Makes a skeleton at the first round, completes and parks it in finish."""

    def __init__(self, reality: Reality, reach: Reach) -> None:
        self._reality = reality
        self._reach = reach
        self.streams: list[int] = []

    def prepare(self, request: pb.Agree) -> pb.Agreed:
        self._reach("destination engine: prepare")
        return pb.Agreed(cgroup=CGROUP)

    def add_stream(self, fd: int) -> None:
        self.streams.append(fd)

    def begin_round(self, request: pb.Round) -> Sequence[int]:
        self._reach("destination engine: round")
        self._reality.copy.skeleton = True
        self._reality.check()
        return []

    def land(self, end: pb.RoundEnd | None, wake: Sequence[int]) -> pb.RoundLanded | None:
        if end is None:
            return None
        self._reach("destination engine: land")
        return pb.RoundLanded(number=end.number, frames=end.frames, pages=end.pages)

    def finish(self, request: pb.Finish) -> pb.Ready:
        self._reach("destination engine: finish begins")
        copy = self._reality.copy
        copy.complete, copy.cgroup_frozen = True, True
        self._reality.check()
        self._reach("destination engine: finish done")
        return pb.Ready(cgroup=CGROUP, pids=[4711], phases=[pb.PhaseTime(name="threads", seconds=0.001)])

    def resume(self) -> Sequence[pb.PhaseTime]:
        self._reach("destination engine: resume begins")
        self._reality.resume_copy()
        self._reach("destination engine: resume done")
        return [pb.PhaseTime(name="thaw", seconds=0.001)]

    def abort(self) -> None:
        self._reach("destination engine: abort begins")
        self._reality.remove_copy()
        self._reach("destination engine: abort done")

    def close(self) -> None:
        pass
