"""A server with many forked children: memory before and after, what was sent against what there is, downtime."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.bench.sheet import Scale, Sheet
from tests.hosts import Host, make_hosts
from tests.memory_total import pss_bytes
from tests.migrate.moving import processes
from tests.program_build import ENVIRONMENT, Run, find

DIRECTORY_SHARE = 8  # a directory holds the pages of every task in full


def measure(scale: Scale, sheet: Sheet) -> None:
    """Once each: a live move of scale.live_mib, and a dump and restore of less."""
    children = min(50, max(scale.trees))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with make_hosts("host-a", "host-b", binds={name: name}) as (a, b):
            b.start_sshd()
            _move(_start(a, folder / "live", scale.live_mib, children), a, b, sheet)
            _restore(_start(a, folder / "stored", scale.live_mib // DIRECTORY_SHARE, children), a, folder, sheet)


def _start(host: Host, folder: Path, mib: int, children: int) -> Run:
    program = replace(find("tree_cow_many.c"), args=(str(mib), str(children)))
    run = program.start(folder, lambda argv: host.start(argv, env=ENVIRONMENT))
    run.wait_ready(deadline_s=120)
    return run


def _total(host: Host, run: Run) -> int:
    return pss_bytes(host, processes(host, str(run.scratch_dir)))


def _move(run: Run, a: Host, b: Host, sheet: Sheet) -> None:
    before = _total(a, run)
    argv = ["migrate", str(run.pid), f"root@{b.name}", "--compress", "none", "--json"]
    events = [json.loads(line) for line in a.run(argv, timeout_s=600).stdout.splitlines()]
    done = next(event for event in events if event["event"] == "done")
    sheet.add("memory of the tree", "MiB", before / 2**20)
    sheet.ratio("live: memory after against before", _total(b, run), before)
    sheet.ratio("live: bytes sent against memory", done["sent_bytes"], before)
    sheet.ms("live: downtime", done["downtime_s"])
    for phase in done["phases"]:
        sheet.ms(f"live: downtime: {phase['name']}", phase["seconds"])
    sheet.add("live: all of it", "s", done["total_s"])
    _end(run)


def _restore(run: Run, host: Host, folder: Path, sheet: Sheet) -> None:
    before, images = _total(host, run), str(folder / "images")
    host.run(["mkdir", images])
    host.run(["migrate", "dump", "-t", str(run.pid), "-D", images], timeout_s=600)
    host.run(["migrate", "restore", "-D", images, "-d"], timeout_s=600)
    sheet.ratio("directory: memory after against before", _total(host, run), before)
    _end(run)


def _end(run: Run) -> None:
    run.release()
    if (result := run.result(deadline_s=300)) != "PASS":
        raise AssertionError(result)
