"""Points at which something may go wrong, in the order in which a run passes them; one of them can be armed."""

from collections.abc import Callable


class Killed(BaseException):
    """Ends the code of a process that was killed: no handler of ours catches it."""


class Faults:
    """`trace` names every point passed. At point number `at`, `strike` is called; it may raise."""

    def __init__(self, at: int | None = None, strike: Callable[[str], None] = lambda name: None) -> None:
        self.trace: list[str] = []
        self.fired = False
        self._at = at
        self._strike = strike

    def reach(self, name: str) -> None:
        """Pass a point."""
        number = len(self.trace)
        self.trace.append(name)
        if number == self._at:
            self.fired = True
            self._strike(name)
