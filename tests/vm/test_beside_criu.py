"""On 6.1, each program is dumped by us and restored by criu, and the other way round; the docs say what comes of it."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.vm import Guest
from tests.vm.product import SHARE
from tests.vm.programs import BESIDE_CRIU, CARRIED_BY_BOTH

pytestmark = pytest.mark.timeout(3000)
ALL_S = 2400.0
TABLE = Path(__file__).resolve().parents[2] / "docs/beside-criu.md"
DIRECTIONS = ("ours, then criu", "criu, then ours")


def test_the_table_of_the_docs_is_what_happens(guests: tuple[Guest, Guest]) -> None:
    argv = ["env", f"PYTHONPATH={SHARE}/site", "python3", f"{SHARE}/bin/{BESIDE_CRIU.name}", f"{SHARE}/programs"]
    said = guests[0].run([*argv, *CARRIED_BY_BOTH], timeout_s=ALL_S).stdout
    results = [json.loads(line) for line in said.splitlines()]
    table = as_table(results)
    print("\n".join(table))
    for result in results:
        print(result)
    assert table == [line for line in TABLE.read_text().splitlines() if line.startswith("|")]


def as_table(results: Iterable[dict[str, str]]) -> list[str]:
    """A line for each program, in Markdown."""
    outcomes = {(result["program"], result["direction"]): result["outcome"] for result in results}
    lines = [f"| program | {' | '.join(DIRECTIONS)} |", "|---|---|---|"]
    for program in CARRIED_BY_BOTH:
        words = ["passes" if outcomes[program, way] == "PASS" else "**does not**" for way in DIRECTIONS]
        lines.append(f"| {program} | {' | '.join(words)} |")
    return lines
