"""`python -m tests.bench [--tiny] [NAME…]`: all benches, or some; prints their tables and writes build/bench.json."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import cow, descriptors, downtime, fleet, freeze, image, precopy, shared, sharing, stopped, throughput
from tests.bench.sheet import FULL, TINY, Scale, Sheet, table

BENCHES: dict[str, Callable[[Scale, Sheet], None]] = {
    "downtime": downtime.measure,
    "stopped": stopped.measure,
    "throughput": throughput.measure,
    "precopy": precopy.measure,
    "image": image.measure,
    "threads": freeze.measure_threads,
    "trees": freeze.measure_trees,
    "sharing": sharing.measure,
    "cow": cow.measure,
    "descriptors": descriptors.measure,
    "fleet": fleet.measure,
    "shared": shared.measure,
}
RECORD = Path(__file__).resolve().parents[2] / "build" / "bench.json"


def main() -> None:
    """Exit code 0 whatever the figures are; a bench that fails is an error."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(BENCHES)}")
    parser.add_argument("--tiny", action="store_true", help="once and small: shows that it runs, measures nothing")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.names) - set(BENCHES)):
        parser.error(f"no such bench: {', '.join(unknown)}")
    record = {name: run(name, TINY if chosen.tiny else FULL) for name in chosen.names or BENCHES}
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({"machine": machine(), "benches": record}, indent=1) + "\n")
    print(f"written to {RECORD}")


def run(name: str, scale: Scale) -> dict[str, object]:
    """One bench, its table printed as soon as it has ended."""
    sheet, began, load = Sheet(), time.monotonic(), os.getloadavg()[0]
    BENCHES[name](scale, sheet)
    print(table(name, sheet.rows.values()))
    print(f"  ({time.monotonic() - began:.1f} s; load when it began {load:.1f})\n", flush=True)
    return {"load": load, "rows": sheet.record()}


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "load": os.getloadavg(), "time": time.time()}


if __name__ == "__main__":
    main()
