"""What errors say."""

from core.errors import Blocker, Refused


def test_what_many_share_is_said_once_and_so_is_its_hint() -> None:
    blockers = [Blocker("fd-pipe", "fd 1", "another process reads this pipe", "close it") for _ in range(300)]
    error = Refused([*blockers, Blocker("fd-pipe", "fd 2", "another process reads this pipe", "close it")])
    assert [one.subject for one in error.blockers] == ["fd 1", "fd 2"]
    assert str(error) == "fd 1: another process reads this pipe; fd 2: another process reads this pipe"
    assert error.hint == "close it"
