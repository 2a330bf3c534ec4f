"""The pages of many processes that stand still, in one native call: PAGEMAP_SCAN of each, sorted there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.kernel.calls import uncleared
from core.kernel.pagemap_scan import ScanMasks, Spans, scan_argument, span_array
from core.native._kernel import ffi, lib

SPANS_EACH: Final = 128
SPARE_SPANS: Final = 1 << 16
NEVER: Final = (0, 1)


@dataclass(frozen=True, slots=True)
class Sort:
    """Pages of which (categories & mask) is `value`, but for those of which (categories & but[0]) is but[1]."""

    mask: int
    value: int
    but: tuple[int, int] = NEVER


class ScanPlan:
    """What of a process is scanned: `walks`, of which `spans` count. Both ascend; a walk may span holes."""

    __slots__ = ("pid", "spans", "walks")

    def __init__(self, pid: int, walks: Spans, spans: Spans) -> None:
        self.pid = pid
        self.walks, self.spans = span_array(walks), span_array(spans)


Sorted = list[tuple[tuple[int, int], ...]]
"""Spans by sort: ascending, neighbours as one."""


def scan_processes(plans: Sequence[ScanPlan], masks: ScanMasks, sorts: Sequence[Sort]) -> list[Sorted | None]:
    """Of each process; None for one that cannot be scanned so: ask scan_pages()."""
    processes = ffi.new("struct mg_process_scan[]", len(plans))
    for process, plan in zip(processes, plans, strict=True):
        process.pid, process.walks, process.spans = plan.pid, plan.walks, plan.spans
        process.walk_count, process.span_count = len(plan.walks), len(plan.spans)
    rules = ffi.new("struct mg_sort[]", [(one.mask, one.value, *one.but) for one in sorts])
    room = SPARE_SPANS + SPANS_EACH * len(plans)
    found = uncleared("struct mg_span[]", room)
    lib.mg_scan_processes(processes, len(plans), scan_argument(masks), rules, len(rules), found, room)
    return [None if one.error else _spans_of(one, found, len(rules)) for one in processes]


def _spans_of(process: ffi.CData, found: ffi.CData, sorts: int) -> Sorted:
    counts = ffi.unpack(process.counts, sorts)
    words = ffi.unpack(ffi.cast("unsigned long long *", found + process.first), 2 * sum(counts))
    spans = list(zip(words[::2], words[1::2], strict=True))
    sorted_spans, place = [], 0
    for count in counts:
        sorted_spans.append(tuple(spans[place : place + count]))
        place += count
    return sorted_spans
