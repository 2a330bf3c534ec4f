"""Every bench still runs, once and small; what it measured is nobody's business here."""

import math

import pytest

from tests.bench.__main__ import BENCHES
from tests.bench.sheet import TINY, Sheet, table
from tests.requires import require_program, require_root


@pytest.mark.parametrize("name", BENCHES)
def test_bench_runs(name: str) -> None:
    require_root()
    if name in ("downtime", "precopy"):
        require_program("redis-server")
    sheet = Sheet()
    BENCHES[name](TINY, sheet)
    assert sheet.rows
    assert all(math.isfinite(value) and value >= 0 for row in sheet.rows.values() for value in row.values)


def test_a_row_tells_its_spread() -> None:
    sheet = Sheet()
    for value in (3.0, 1.0, 2.0):
        sheet.ratio("x", value, 1.0)
    assert sheet.record()[0]["min"] == 1 and sheet.record()[0]["median"] == 2 and sheet.record()[0]["max"] == 3
    assert table("t", sheet.rows.values()).splitlines()[1].split() == ["x", "×", "3", "1", "2", "3"]
