"""Runs programs in many stopped threads of many processes at a time, by native calls that each fill the borrowed areas.

The same self-curing frames as in core/tracee/borrow.py; when anything goes wrong every thread is recovered.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from core.errors import TraceeError
from core.kernel.calls import uncleared
from core.kernel.threads import ThreadBlock, ThreadState
from core.native._kernel import ffi, lib
from core.plan.encode import OP, RESULT, RESULT_WORD, Template
from core.tracee.borrow import Borrow, Results, failure_of, giving_back, template_slot, too_large
from core.tracee.sigframe import frame_layout


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be run in threads of one process."""

    borrow: Borrow
    threads: ThreadBlock
    programs: Mapping[int, Template]  # by index


@dataclass(frozen=True, slots=True)
class _Slot:
    wave: int  # which native call
    work: int
    index: int  # of the thread
    place: int


def run_together(works: Sequence[Work]) -> list[list[Results]]:
    """Results of every work, thread by thread; all threads are stopped again and as they were.

    RemoteSyscallError names the op that failed, TraceeError who did not come back.
    """
    results: list[list[Results]] = [[] for _ in works]
    native = _NativePrograms()
    slots = sorted((slot for number, work in enumerate(works) for slot in _slots(number, work)), key=lambda s: s.wave)
    for _, wave in groupby(slots, key=lambda slot: slot.wave):
        for slot, result in _run_wave(list(wave), works, native):
            results[slot.work].append(result)
    return results


def _slots(number: int, work: Work) -> Iterator[_Slot]:
    """Where each program lies in the area; the area is used again and again."""
    area = work.borrow.area
    wave, free = 0, area.writable
    for index, template in work.programs.items():
        size = template_slot(template)
        if free + size > area.end:
            wave, free = wave + 1, area.writable
        if free + size > area.end:
            raise too_large(work.threads[index].tid, template)
        yield _Slot(wave, number, index, free)
        free += size


class _NativePrograms:
    """Templates as the native part takes them."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ffi.CData, object]] = {}

    def of(self, template: Template) -> "ffi.CData":
        if id(template) not in self._known:
            parts = (
                ffi.from_buffer(template.content), ffi.new("unsigned int[]", template.addresses),
                ffi.new("unsigned int[]", template.yields), template,
            )  # fmt: skip
            made = ffi.new("struct mg_program *")
            made.content, made.addresses, made.yields = parts[:3]
            made.size, made.op_count = len(template.content), template.op_count
            made.address_count, made.yield_count = len(template.addresses), len(template.yields)
            self._known[id(template)] = made, parts
        return self._known[id(template)][0]


def _run_wave(wave: Sequence[_Slot], works: Sequence[Work], native: _NativePrograms) -> Iterator[tuple[_Slot, Results]]:
    jobs = ffi.new("struct mg_job[]", len(wave))
    templates = [works[slot.work].programs[slot.index] for slot in wave]
    room = bytearray(sum(len(template.content) for template in templates))
    start = ffi.from_buffer(room)
    used = 0
    for job, slot, template in zip(jobs, wave, templates, strict=True):
        borrow, thread = works[slot.work].borrow, works[slot.work].threads.array + slot.index
        job.thread, job.program, job.place, job.content = thread, native.of(template), slot.place, start + used
        job.code, job.own_tid = borrow.area.address, borrow.own_id(thread.tid)
        job.yield_signal = borrow.yield_signal(thread.tid, thread.sigmask)
        used += len(template.content)
    if lib.mg_run_jobs(jobs, len(wave), frame_layout()):
        _recover(jobs, [works[slot.work].threads[slot.index] for slot in wave])
    used = 0
    for job, slot, template in zip(jobs, wave, templates, strict=True):
        content = bytes(room[used : used + len(template.content)])
        if index := job.failed_op:
            value = RESULT_WORD.unpack_from(content, (index - 1) * OP.size + RESULT)[0]
            raise failure_of(job.thread.tid, template, index - 1, value)
        yield slot, Results(template, content)
        used += len(template.content)


def run_alike(borrow: Borrow, threads: ThreadBlock, first: int, template: Template) -> "ffi.CData":
    """One program run in every thread from the `first` on: what each one's brought back, one behind the other.

    All threads are stopped again and as they were. Errors as those of run_together().
    """
    count, size, slot = len(threads) - first, len(template.content), template_slot(template)
    slots = borrow.area.size // slot
    if not slots:
        raise too_large(threads[first].tid, template)
    content, jobs = uncleared("unsigned char[]", count * size), uncleared("struct mg_job[]", count)
    native, like = _NativePrograms(), ffi.new("struct mg_job *")
    like.program, like.code, like.place, like.content = (
        native.of(template), borrow.area.address, borrow.area.writable, content,
    )  # fmt: skip
    tids = threads.tids[first:]
    own_ids, quiet = [borrow.own_id(tid) for tid in tids], borrow.quiet
    lib.mg_make_jobs(jobs, threads.array + first, count, like, slot, slots, own_ids, quiet, len(quiet))
    _choose_signals(jobs, threads, first, borrow)
    for start in range(0, count, slots):
        many = min(slots, count - start)
        if lib.mg_run_alike(jobs + start, many, frame_layout()):
            _recover(jobs[start : start + many], [threads[first + start + place] for place in range(many)])
    return _without_failed(jobs, content, template)


def _choose_signals(jobs: "ffi.CData", threads: ThreadBlock, first: int, borrow: Borrow) -> None:
    """Of those that block all that are quiet."""
    for place in range(len(jobs)):
        if not jobs[place].yield_signal:
            thread = threads.array[first + place]
            jobs[place].yield_signal = borrow.yield_signal(thread.tid, thread.sigmask)


def _without_failed(jobs: "ffi.CData", content: "ffi.CData", template: Template) -> "ffi.CData":
    """`content`; an error when an op failed that may not."""
    for place in range(len(jobs)):
        if index := jobs[place].failed_op:
            result = place * len(template.content) + (index - 1) * OP.size + RESULT
            value = RESULT_WORD.unpack_from(ffi.buffer(content), result)[0]
            raise failure_of(jobs[place].thread.tid, template, index - 1, value)
    return content


def _recover(jobs: "ffi.CData", threads: Sequence[ThreadState]) -> None:
    """Put every thread back, wherever it is; TraceeError for the first that failed."""
    with giving_back(*threads):
        failed = next(job for job in jobs if job.error)
        reason = f"does not come back from a borrowed program (errno {failed.error})"
        if failed.fatal_signal:
            reason = f"{signal.Signals(failed.fatal_signal).name} while borrowed"
        raise TraceeError(failed.thread.tid, reason)
