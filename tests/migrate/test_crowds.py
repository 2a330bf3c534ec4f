"""A thousand processes and five thousand threads move, and how long they will stand still is told beforehand."""

from dataclasses import replace

import pytest

from tests.migrate.moving import Pair, Said, assert_nothing_left, processes
from tests.program_build import find
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
WITHIN = 5  # times: both hosts share two cores with whatever else runs


@pytest.mark.parametrize(
    ("name", "args", "count"), [("tree_crowd.c", ("20", "49"), 1001), ("threads_crowd.c", ("5000", "20"), 1)]
)
def test_a_crowd_passes_on_the_other_host(name: str, args: tuple[str, ...], count: int, pair: Pair) -> None:
    run = pair.start(replace(find(name), args=args))
    scratch = str(run.scratch_dir)
    assert len(processes(pair.a, scratch)) == count
    argv = ["migrate", str(run.pid), "root@host-b", "--pid", "namespace", "--json"]
    done = pair.a.run(argv, check=False, timeout_s=400)
    said = Said(done.returncode, done.stdout, done.stderr)
    assert said.code == 0, said.text
    assert (len(processes(pair.a, scratch)), len(processes(pair.b, scratch))) == (0, count)
    run.release()
    assert run.result() == "PASS"
    wait_until(lambda: not processes(pair.b, scratch), "all of it ended by itself")
    downtime_s = said.event("done")["downtime_s"]
    assert downtime_s / WITHIN < said.event("round_done")["expected_downtime_s"] < downtime_s * WITHIN, said.text


def test_all_those_moves_left_nothing_behind(pair: Pair) -> None:
    assert_nothing_left([pair.a, pair.b])
