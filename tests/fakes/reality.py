"""The two processes of a migration as they really are, whatever anybody believes; checks at every change."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Target:
    """The process at the source. The tracer's stop ends with the tracer, the cgroup's freeze with nobody."""

    alive: bool = True
    traced_stop: bool = False
    cgroup_frozen: bool = False

    @property
    def running(self) -> bool:
        return self.alive and not self.traced_stop and not self.cgroup_frozen


@dataclass(slots=True)
class Copy:
    """The process at the destination: nothing, a skeleton, or complete and held by its cgroup until thawed."""

    skeleton: bool = False
    complete: bool = False
    cgroup_frozen: bool = False

    @property
    def exists(self) -> bool:
        return self.skeleton or self.complete

    @property
    def running(self) -> bool:
        return self.complete and not self.cgroup_frozen


@dataclass(slots=True)
class Reality:
    """Both, and the two sentences that must hold at every moment."""

    target: Target = field(default_factory=Target)
    copy: Copy = field(default_factory=Copy)
    over: bool = False  # the test has seen enough

    def check(self) -> None:
        """Never two; never none."""
        if self.over:
            return
        assert not (self.target.running and self.copy.running), "two copies run"
        assert self.target.alive or self.copy.complete, "no copy is left"
        assert not (self.copy.complete and not self.copy.cgroup_frozen and self.target.traced_stop), (
            "the copy runs while only a tracer holds the source"
        )

    def resume_target(self) -> None:
        self.target.cgroup_frozen = False
        self.check()

    def kill_target(self) -> None:
        self.target.alive = False
        self.check()

    def resume_copy(self) -> None:
        assert self.copy.complete, "a copy is resumed that is not there"
        self.copy.cgroup_frozen = False
        self.check()

    def remove_copy(self) -> None:
        self.copy.skeleton = self.copy.complete = self.copy.cgroup_frozen = False
        self.check()
