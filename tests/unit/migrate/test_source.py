"""The coordinator in memory: what is told, refused, given up, and resolved."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import Blocker, MigrateError, PageStreamError, Refused
from migrate import events, parties, precopy
from migrate.errors import ConnectionLost, GaveUp, JournalError, Unsettled
from migrate.journal import Role
from migrate.machine import CopyState, State
from migrate.messages import Body, blocker_to_text, error_of, failure_of
from migrate.pb import control_pb2 as pb
from migrate.resolve import Keep
from migrate.world import MigrationRequest, MigrationResult, Outcome
from tests.fakes.engines import FakeSourceEngine
from tests.fakes.stage import ID, Stage, Wire


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path)
    yield found
    found.reality.over = True


def move(stage: Stage, **wishes: object) -> MigrationResult:
    request = MigrationRequest(pid=4711, destination="root@host-b", **wishes)  # type: ignore[arg-type]
    result = asyncio.run(stage.migrate(request))
    assert result is not None
    return result


def point(stage: Stage, name: str) -> int:
    """Number of the point called `name` in a good run on another stage."""
    other = Stage(stage.source_journal.state_dir.parent / "dry")
    asyncio.run(other.migrate())
    other.reality.over = True
    return other.faults.trace.index(name)


def last(stage: Stage) -> events.Event:
    return stage.events[-1]


def test_a_good_run_ends_with_done_and_the_downtime_is_the_sum_of_its_phases(stage: Stage) -> None:
    assert move(stage).outcome.exit_code == 0
    done = last(stage)
    assert isinstance(done, events.Done)
    whole = {phase.name: phase.seconds for phase in done.phases if ": " not in phase.name}
    assert list(whole) == ["freeze", "collect", "last pages", "restore", "hand over", "resume"]
    assert done.downtime_s == pytest.approx(sum(whole.values()))
    assert {phase.name for phase in done.phases} - set(whole) == {"restore: threads", "resume: thaw"}


def test_phases_come_in_the_order_that_people_see(stage: Stage) -> None:
    move(stage)
    phases = [event.phase for event in stage.events if isinstance(event, events.PhaseStarted)]
    assert phases == list(events.Phase)[: len(phases)]


def test_every_event_is_one_json_line_that_names_itself(stage: Stage) -> None:
    move(stage)
    lines = [event.to_json() for event in stage.events]
    assert all("\n" not in line for line in lines)
    assert [json.loads(line)["event"] for line in (lines[0], lines[1], lines[-1])] == [
        "started",
        "phase_started",
        "done",
    ]


def test_rounds_are_told_with_their_dirty_pages(tmp_path: Path) -> None:
    stage = Stage(tmp_path, dirty_pages=(50_000, 9_000, 10))
    move(stage, max_downtime_s=0.1)
    told = [event.dirty_pages for event in stage.events if isinstance(event, events.RoundDone)]
    assert told == [50_000, 9_000, 10]


def test_the_deadline_ends_a_round_that_does_not_end_by_itself(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precopy, "ROUND_AT_LEAST_S", 0.05)
    answer, late = stage._answer_by_keeper, list[Body]()

    def hang(request: Body) -> list[Body]:
        said = [*late, *answer(request)]
        late[:] = said if isinstance(request, pb.Round) else []
        return [] if late else said

    send, told = Wire.send, defaultdict[Wire, asyncio.Event](asyncio.Event)

    async def tell(wire: Wire, message: bytes) -> None:
        await send(wire, message)
        if wire._answers:
            told[wire].set()

    async def wait(wire: Wire) -> bytes | None:
        await told[wire].wait()
        answer = wire._answers.popleft()
        if not wire._answers:
            told[wire].clear()
        return answer

    monkeypatch.setattr(stage, "_answer_by_keeper", hang)
    monkeypatch.setattr(Wire, "send", tell)
    monkeypatch.setattr(Wire, "recv", wait)
    result = move(stage, deadline_s=0.01)
    state = stage.source_journal.require(ID, Role.SOURCE).state
    assert (result.outcome.exit_code, state) == (1, State.ROLLED_BACK)
    assert isinstance(result.error, GaveUp) and "deadline of 0.01 s" in result.error.message


def test_a_blocker_over_there_refuses_before_anything_is_touched(stage: Stage) -> None:
    blocker = Blocker("pid-taken", "pid 4711", "is taken over there", "--pid namespace", of_destination=True)
    stage.check_answer = pb.CheckAnswer(blockers=[blocker_to_text(blocker)])
    result = move(stage)
    assert (result.outcome.exit_code, last(stage)) == (3, events.Blocked((blocker,)))
    assert isinstance(result.error, Refused)
    assert not [point for point in stage.faults.trace if "engine" in point or "journal" in point]


def test_what_fails_over_there_names_the_host_and_keeps_its_hint(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, broken = stage._answer_by_keeper, MigrateError("/data: cannot be made: EROFS", hint="remount it rw")

    def fail(request: Body) -> list[Body]:
        return [failure_of(broken)] if isinstance(request, pb.Finish) else answer(request)

    monkeypatch.setattr(stage, "_answer_by_keeper", fail)
    move(stage)
    failed = last(stage)
    assert isinstance(failed, events.Failed)
    assert (failed.message, failed.hint) == ("on host-b: /data: cannot be made: EROFS", "remount it rw")


def test_why_a_page_stream_broke_over_there_names_the_host_and_keeps_its_hint(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = stage._answer_by_keeper

    def tell(request: Body) -> list[Body]:
        asked = isinstance(request, pb.Status)
        return [pb.StatusAnswer(detail="disk: full", hint="make room")] if asked else answer(request)

    def break_off(self: FakeSourceEngine, *_args: object, **_more: object) -> None:
        raise PageStreamError("page stream: broken pipe")

    monkeypatch.setattr(stage, "_answer_by_keeper", tell)
    monkeypatch.setattr(FakeSourceEngine, "send_pages", break_off)
    move(stage)
    failed = last(stage)
    assert isinstance(failed, events.Failed)
    assert (failed.message, failed.hint) == ("on host-b: disk: full", "make room")


def why_rolled_back(stage: Stage) -> str:
    entry = stage.source_journal.require(ID, Role.SOURCE)
    assert entry.state == State.ROLLED_BACK
    return entry.detail


def test_the_journal_says_why_it_was_rolled_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, dirty_pages=[100_000] * 40)
    result = move(stage, max_downtime_s=0.001)
    assert isinstance(result.error, GaveUp)
    assert why_rolled_back(stage) == f"{result.error.message} → {result.error.hint}"


def test_the_journal_says_why_when_no_keeper_was_there_to_write_it(stage: Stage) -> None:
    stage.arm(point(stage, "there: Agree to be sent"), Stage.cut_for_good)
    move(stage)
    assert why_rolled_back(stage) == "there: cut"


def test_the_journal_says_that_its_coordinator_ended(stage: Stage) -> None:
    stage.arm(point(stage, "source engine: freeze done"), Stage.kill_coordinator)
    asyncio.run(stage.migrate())
    assert "ended before it was done" in why_rolled_back(stage)


def test_a_late_refusal_over_there_names_the_host() -> None:
    blocker = Blocker("copy-busy", "migration x", "is at work", "try again")
    error = error_of(failure_of(Refused([blocker])), "host-b")
    assert (error.message, error.hint) == ("on host-b: migration x: is at work", "try again")


def test_an_unreachable_host_is_refused_with_exit_code_3(stage: Stage) -> None:
    stage.reachable = False
    result = move(stage)
    assert (result.outcome, type(result.error)) == (Outcome.REFUSED, ConnectionLost)


def test_a_set_that_does_not_shrink_enough_gives_up_and_the_source_runs_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, dirty_pages=(50_000,))
    result = move(stage, max_downtime_s=0.05)
    assert (result.outcome.exit_code, type(result.error)) == (1, GaveUp)
    assert stage.reality.target.running and not stage.reality.copy.exists
    shares = [event.cpu_share for event in stage.events if isinstance(event, events.Throttled)]
    assert shares == [0.5, 0.25, 0.1]


def test_without_throttling_it_gives_up_at_full_speed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, dirty_pages=(50_000,))
    assert move(stage, max_downtime_s=0.05, throttle=False).outcome is Outcome.ROLLED_BACK
    assert not [event for event in stage.events if isinstance(event, events.Throttled)]


def test_a_watcher_that_breaks_does_not_hurt_the_migration(stage: Stage) -> None:
    class Broken(list[events.Event]):
        def append(self, event: events.Event) -> None:
            raise BrokenPipeError

    stage.events = Broken()
    assert move(stage).outcome is Outcome.DONE


@pytest.mark.parametrize(("dies", "code"), [(False, 0), (True, 1)])
def test_a_host_that_goes_silent_at_the_end_is_told_of_and_not_waited_for_long(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, dies: bool, code: int
) -> None:
    close, calls = stage.close, list[int]()

    async def hang_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.get_running_loop().create_future()
        await close()

    monkeypatch.setattr(stage, "close", hang_once)
    monkeypatch.setattr(parties, "TELL_AFTER_S", 0.0)
    monkeypatch.setattr(parties, "CLOSE_AT_MOST_S", 0.05)
    if dies:
        stage.arm(point(stage, "here: Freeze to be sent"), Stage.kill_source_keeper)
    assert move(stage).outcome.exit_code == code
    told = [event.text for event in stage.events if isinstance(event, events.Notice) and "not answer" in event.text]
    assert told == ["there: does not answer; its connection is closed, which takes 0.05 s at most"]
    assert isinstance(last(stage), events.Failed if dies else events.Done)


def test_a_host_that_does_not_confirm_the_copy_is_told_of_with_how_long_it_is_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parties, "TELL_AFTER_S", 0.0)
    assert move(stage, reconnect_s=7.0).outcome.exit_code == 0
    [text] = [one.text for one in stage.events if isinstance(one, events.Notice) and "not say" in one.text]
    assert text.endswith("waiting 10 s for it, then asking anew for some 7 s")


def test_in_doubt_names_both_copies_and_the_one_command(stage: Stage) -> None:
    stage.arm(point(stage, "there: Resume answered, not heard"), Stage.cut_for_good)
    assert move(stage).outcome.exit_code == 4
    doubt = last(stage)
    assert isinstance(doubt, events.InDoubt)
    assert "migrate-fake" in doubt.source and doubt.command == f"migrate resolve {ID}"
    assert stage.source_journal.require(ID, Role.SOURCE).state == State.IN_DOUBT


def test_a_lost_resume_is_settled_by_itself_when_the_host_comes_back(stage: Stage) -> None:
    stage.arm(point(stage, "there: Resume to be sent"), Stage.cut)
    assert move(stage).outcome is Outcome.DONE
    assert events.Phase.SETTLE in [event.phase for event in stage.events if isinstance(event, events.PhaseStarted)]


def test_an_earlier_migration_in_doubt_refuses_a_new_one(stage: Stage) -> None:
    stage.arm(point(stage, "there: Resume answered, not heard"), Stage.cut_for_good)
    move(stage)
    stage.reachable = True
    result = move(stage)
    assert result.outcome is Outcome.REFUSED and "IN_DOUBT" in str(result.error)


def test_an_earlier_migration_that_was_killed_is_undone_first(stage: Stage) -> None:
    stage.arm(point(stage, "source engine: freeze done"), Stage.kill_coordinator)

    async def killed_then_again() -> None:
        await stage.migrate()
        journal = stage.source_journal
        stale = journal.require(ID, Role.SOURCE)
        journal.write(stale.entered(State.FROZEN))  # as if its keeper had been killed with it
        stage.coordinator_killed.clear()
        stage.copy_keeper = None
        stage.destination_journal.path(ID, Role.DESTINATION).unlink()
        await stage.migrate()
        stage.reality.over = True

    asyncio.run(killed_then_again())
    texts = [event.text for event in stage.events if isinstance(event, events.Notice)]
    assert [text for text in texts if "undid migration" in text]


def doubtful(stage: Stage, at: str = "there: Resume to be sent") -> None:
    stage.arm(point(stage, at), Stage.cut_for_good)
    assert move(stage).outcome is Outcome.IN_DOUBT


def test_resolve_starts_a_ready_copy_and_kills_the_source(stage: Stage) -> None:
    doubtful(stage)
    assert asyncio.run(stage.resolve()).state is State.DONE
    assert stage.reality.copy.running and not stage.reality.target.alive


def test_keep_source_removes_the_ready_copy_before_the_source_runs(stage: Stage) -> None:
    doubtful(stage)
    assert asyncio.run(stage.resolve(Keep.SOURCE)).state is State.KEPT_SOURCE
    assert stage.reality.target.running and not stage.reality.copy.exists


def test_keep_source_is_refused_when_the_copy_runs(stage: Stage) -> None:
    doubtful(stage, "there: Resume answered, not heard")
    with pytest.raises(Unsettled, match="does not give its copy up"):
        asyncio.run(stage.resolve(Keep.SOURCE))
    assert stage.reality.copy.running and not stage.reality.target.running


def test_a_destination_that_lost_its_copy_needs_the_operators_word(stage: Stage) -> None:
    doubtful(stage)
    stage.copy_keeper = None
    journal = stage.destination_journal
    journal.write(journal.require(ID, Role.DESTINATION).entered(CopyState.READY, boot_id="an earlier boot"))
    stage.reality.copy.complete = False  # the reboot took it
    with pytest.raises(Unsettled, match="LOST") as caught:
        asyncio.run(stage.resolve())
    assert "--keep source" in (caught.value.hint or "")
    assert not stage.reality.target.running
    assert journal.require(ID, Role.DESTINATION).state == CopyState.LOST


def test_resolving_what_is_done_changes_nothing(stage: Stage) -> None:
    move(stage)
    assert asyncio.run(stage.resolve()).state is State.DONE
    assert stage.reality.copy.running


def test_resolving_what_this_host_does_not_know_is_a_named_error(stage: Stage) -> None:
    with pytest.raises(JournalError, match="no such migration"):
        asyncio.run(stage.resolve())
