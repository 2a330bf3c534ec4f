"""How long the same program stands still between two guests with 6.1, at the same pace of writing: by us, and by criu.

By criu as its documentation says: three pre-dumps and the dump to a page server, the other images copied, restored.
"""

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.vm import SUPPORTED_KERNELS, Guest, Lab
from tests.vm.programs import COMMAND_S, Started, make_anew, start

pytestmark = pytest.mark.timeout(1800)
PROGRAM = "memory_paced"
IMAGES = "/srv/criu"
# Words: PID ADDRESS. Prints the milliseconds from the beginning of the dump to the end of the restore. One connection
# carries all commands, as ours does.
BY_CRIU = f"""\
set -e
there() {{ ssh -o ControlPath=/run/beside-criu "root@$address" "$@"; }}
pid=$1 address=$2 before=
there -M -N -f </dev/null >/dev/null 2>&1
trap 'there -O exit 2>/dev/null' EXIT
for n in 1 2 3 4; do
	mkdir -p {IMAGES}/$n
	there "mkdir -p {IMAGES}/$n; criu page-server -d -D {IMAGES}/$n $before --port 27000 -o server.log"
	kind=pre-dump
	if [ $n = 4 ]; then kind=dump; begin=$(date +%s%N); fi
	criu $kind -t $pid -D {IMAGES}/$n $before --track-mem --page-server --address $address --port 27000 -o $kind.log
	before="--prev-images-dir ../$n"
done
tar -C {IMAGES}/4 -c . | there "tar -C {IMAGES}/4 -x; criu restore -d -D {IMAGES}/4 -o restore.log"
echo $((($(date +%s%N) - begin) / 1000000))
"""


def test_downtime_is_measured_beside_crius(lab: Lab, share: Path, guests: tuple[Guest, Guest]) -> None:
    here = guests[0]
    [there] = lab.boot({"vm-c": SUPPORTED_KERNELS[0]}, share=share)
    with closing(there):
        ours_s, theirs_s = by_us(here, there), by_criu(here, there)
    print(f"{PROGRAM} between two guests with {SUPPORTED_KERNELS[0]}, stood still: ours {ours_s:.2f} s, "
          f"criu {theirs_s:.2f} s, ratio {ours_s / theirs_s:.2f}")  # fmt: skip


def by_us(here: Guest, there: Guest) -> float:
    """Seconds of downtime, as `migrate` tells them."""
    program = started(here, there)
    argv = ["migrate", str(program.pid), f"root@{there.address}", "--json"]
    events = [json.loads(line) for line in here.run(argv, timeout_s=COMMAND_S).stdout.splitlines()]
    program.check(there)
    return next(float(event["downtime_s"]) for event in events if event["event"] == "done")


def by_criu(here: Guest, there: Guest) -> float:
    """Seconds from the beginning of the last dump to the end of the restore; one clock has seen both."""
    for guest in (here, there):
        make_anew(guest, IMAGES)
    program = started(here, there)
    said = here.run(["sh", "-c", BY_CRIU, "by-criu", str(program.pid), there.address], timeout_s=COMMAND_S)
    program.check(there)
    return int(said.stdout.split()[-1]) / 1000


def started(here: Guest, there: Guest) -> Started:
    """The program, ready, with its directory on both."""
    program = start(here, PROGRAM)
    make_anew(there, program.folder)
    return program
