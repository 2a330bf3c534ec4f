"""Asks every thread of a frozen tree what only it can tell, all of them at once, and puts their core images together.

Thousands of threads differ in little: what they have in common is put together once. Those of a process with many are
asked and encoded by native calls; what these cannot tell is done thread by thread, which says what an image holds.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from core.images import kinds
from core.images.codec import Unparsed
from core.images.pb.core_pb2 import CoreEntry, ThreadCoreEntry
from core.images.pb.signals_pb2 import SignalQueueEntry
from core.images.store import ImageSet
from core.kernel import ptrace
from core.kernel.thread_cores import MOST_GROUPS, Crowd, Pieces, Places, Sorted, Told
from core.kernel.thread_facts import AllFacts, ThreadFacts, parse_scheduling, read_facts
from core.kernel.thread_records import PLACES
from core.kernel.threads import registers_of, xstate_of
from core.kernel.xsave import usable_size
from core.native._kernel import ffi
from core.plan.encode import OP, RESULT, RESULT_WORD, Template, assemble
from core.plan.ops import Program
from core.proc.brief import BriefStatus
from core.proc.statuses import Statuses
from core.proc.timers import PosixTimer
from core.resources import (
    address_space,
    credentials,
    posix_timers,
    process_settings,
    process_tree,
    refused,
    registers,
    scheduling,
    seccomp,
    signals,
    thread,
    thread_settings,
    vma_marks,
)
from core.tracee.borrow import Borrow, Results
from core.tracee.freezer import FrozenProcess
from core.tracee.together import Work, run_alike, run_together

MANY: Final = 8  # threads beside the leader
ADDRESS: Final = struct.Struct("<Q")
STACK: Final = struct.Struct("<QI4xQ")  # stack_t
# Fields of ThreadCoreEntry between those that each thread has of its own: see Pieces.
FIELDS: Final = (range(3, 6), range(8, 13), range(16, 17), range(50001, 60000))


class Questions:
    """Everything asked of one thread; the leader is asked for the process too."""

    def __init__(self, *, leader: bool, timers: Sequence[PosixTimer] = ()) -> None:
        self.stack = signals.stack_question()
        self.thread = thread.thread_questions()
        self.securebits = credentials.securebits_question()
        self.settings = thread_settings.SettingQuestions()
        self.marks = refused.ThreadMarks()
        self.process = signals.process_questions() if leader else None
        self.timers = posix_timers.timer_questions(timers if leader else ())
        self.process_settings = process_settings.ProcessSettingQuestions()
        self.process_marks = refused.ProcessMarks()
        self.mm = address_space.MmQuestions() if leader else None
        self.marks_of_mm = vma_marks.MarkQuestions()
        own: Program = (self.stack, self.thread.clear_child_tid)
        common: Program = (self.thread.parent_death, self.securebits, *self.settings.program, *self.marks.program)
        program = own + common
        if self.process and self.mm:
            program += self.process.program + self.timers.program + self.mm.program
            program += self.process_settings.program + self.process_marks.program + self.marks_of_mm.program
        self.template: Template = assemble(program)
        self._common = struct.Struct(f"<{OP.size * len(own)}x" + f"{RESULT}xq" * len(common))
        self._common_results = [
            (at + RESULT, at + OP.size) for at in range(OP.size * len(own), OP.size * len(own + common), OP.size)
        ]
        self._of_process = _joined(self._process_parts())
        self._outs = [
            self.template.outs[key] for key in sorted(self.template.outs) if len(own) <= key[0] < len(own + common)
        ]

    def _process_parts(self) -> list[tuple[int, int]]:
        """Where the answers lie that tell of the process as such, but for its timers and marks."""
        if self.process is None:
            return []
        settings = self.process_settings
        asked = (*self.process.program, settings.membarrier, settings.subreaper)
        places = {self.template.places[id(op)] for op in asked}
        outs = [(place, place + size) for key, (place, size) in self.template.outs.items() if key[0] in places]
        result = self.template.places[id(settings.membarrier)] * OP.size + RESULT  # the others succeed
        return [(result, result + RESULT_WORD.size), *outs]

    def of_process(self, results: Results) -> bytes:
        """Answers that are the same for processes that are alike."""
        return b"".join([results.content[start:end] for start, end in self._of_process])

    @property
    def common_places(self) -> list[tuple[int, int]]:
        """Where the answers of common() lie in what came back."""
        return [*self._common_results, *((place, place + size) for place, size in self._outs)]

    def common(self, results: Results) -> tuple[object, ...]:
        """Answers that are mostly the same for all threads."""
        outs = [results.content[place : place + size] for place, size in self._outs]
        return (*self._common.unpack_from(results.content), *outs)


def _joined(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Parts that touch as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(parts):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


@cache
def questions(*, leader: bool = False) -> Questions:
    """What every thread is asked, or every leader without timers."""
    return Questions(leader=leader)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one stopped thread is and said."""

    tid: int
    raw: "ffi.CData"  # struct mg_thread
    status: BriefStatus
    facts: ThreadFacts
    asked: Questions
    results: Results


@dataclass(frozen=True, slots=True)
class AskedCrowd:
    """All threads of a process but the first, each of which was asked."""

    frozen: FrozenProcess
    statuses: Statuses
    facts: AllFacts
    answers: "ffi.CData"  # of all, one behind the other

    @property
    def tids(self) -> list[int]:
        """Of those threads."""
        return self.frozen.tids[1:]

    def of(self, index: int) -> Answers:
        """What one of them is and said."""
        asked, tid = questions(), self.tids[index]
        size = len(asked.template.content)
        content = bytes(ffi.buffer(self.answers + index * size, size))
        raw = self.frozen.threads.array[1 + index]
        return Answers(tid, raw, self.statuses[tid], self.facts.of(index), asked, Results(asked.template, content))

    def sorted(self) -> tuple[Crowd, Sorted]:
        """Who is alike."""
        asked = questions()
        size = len(asked.template.content)
        crowd = Crowd(self.frozen.threads, 1, self.answers, size, _places(), usable_size())
        keyring = asked.template.places[id(asked.marks.keyring)] * OP.size + RESULT
        return crowd, crowd.sort(Told(self.facts, self.statuses.texts(self.tids), asked.common_places, keyring))


@dataclass(frozen=True, slots=True)
class RecordedCrowd:
    """The same threads by what the kernel has of them: one of each group was asked, and who is in none."""

    frozen: FrozenProcess
    statuses: Statuses
    crowd: Crowd
    found: Sorted
    asked: list[Answers]  # of `wanted`

    @property
    def tids(self) -> list[int]:
        """Of those threads."""
        return self.frozen.tids[1:]

    def of(self, index: int) -> Answers:
        """What one of them is and said."""
        return self.asked[wanted(self.found).index(index)]

    def sorted(self) -> tuple[Crowd, Sorted]:
        """Who is alike."""
        return self.crowd, self.found


def wanted(found: Sorted) -> list[int]:
    """Who has to be asked, by index."""
    return sorted((*found.firsts, *found.alone))


@dataclass(frozen=True, slots=True)
class Asked:
    """Threads of a process, the leader first: with `crowd` that one alone."""

    answers: list[Answers]
    crowd: AskedCrowd | RecordedCrowd | None


Process = tuple[FrozenProcess, Borrow, Statuses, Sequence[PosixTimer]]


def ask_all(processes: Sequence[Process], many: int = MANY) -> list[Asked]:
    """Ask every thread of every process: frozen, what it lends us, statuses, POSIX timers. `many`: for so many threads
    beside the leader it is done all at once, or by what the kernel has of them."""
    crowds = [len(frozen.tids) > many and frozen.tids[0] == frozen.pid for frozen, *_ in processes]
    known = [_sort_recorded(one) if crowd else None for one, crowd in zip(processes, crowds, strict=True)]
    indexes = [
        [0, *(1 + index for index in wanted(its[1]))] if its else range(1 if crowd else len(frozen.tids))
        for (frozen, *_), crowd, its in zip(processes, crowds, known, strict=True)
    ]
    asked = []
    for one, crowd, its, answers in zip(processes, crowds, known, _ask_each(processes, indexes), strict=True):
        frozen, _, statuses, _ = one
        if its and all(_is_as_recorded(answer, statuses, frozen) for answer in answers[1:]):
            asked.append(Asked(answers[:1], RecordedCrowd(frozen, statuses, *its, answers[1:])))
        else:
            asked.append(Asked(answers[:1], _ask_crowd(one)) if crowd else Asked(answers, None))
    return asked


def _ask_crowd(process: Process) -> AskedCrowd:
    frozen, borrow, statuses, _ = process
    answers = run_alike(borrow, frozen.threads, 1, questions().template)
    return AskedCrowd(frozen, statuses, AllFacts(frozen.tids[1:]), answers)


def _sort_recorded(process: Process) -> tuple[Crowd, Sorted] | None:
    """Who is alike by the records; None where these do not say, or too few are."""
    frozen, _, statuses, _ = process
    if (records := statuses.records) is None:
        return None
    answers = ffi.from_buffer("unsigned char[]", records.content) + records.size
    crowd = Crowd(frozen.threads, 1, answers, records.size, PLACES, usable_size())
    found = crowd.sort_records()
    return (crowd, found) if len(found.firsts) + len(found.alone) <= MOST_GROUPS else None


def _is_as_recorded(answers: Answers, statuses: Statuses, frozen: FrozenProcess) -> bool:
    """What a thread has said of itself is what the kernel has."""
    record = statuses.records.of(frozen.tids.index(answers.tid)) if statuses.records else b""
    return _own(answers.results.content, _places()) == _own(record, PLACES)


def _own(content: bytes, places: Places) -> tuple[object, ...]:
    pointer, flags, size = STACK.unpack_from(content, places.stack)
    return ADDRESS.unpack_from(content, places.clear_child_tid), pointer, flags & ~signals.SS_ONSTACK, size


def _ask_each(processes: Sequence[Process], indexes: Sequence[Sequence[int]]) -> list[list[Answers]]:
    """Ask some threads of every process, by their indexes. Leaders come first."""
    asked = [
        {index: _leader_questions(timers) if frozen.tids[index] == frozen.pid else questions() for index in some}
        for (frozen, _, _, timers), some in zip(processes, indexes, strict=True)
    ]
    works = [
        Work(borrow, frozen.threads, {index: its.template for index, its in group.items()})
        for (frozen, borrow, _, _), group in zip(processes, asked, strict=True)
    ]
    return [
        _answers(frozen, statuses, group, found)
        for (frozen, _, statuses, _), group, found in zip(processes, asked, run_together(works), strict=True)
    ]


def _answers(
    frozen: FrozenProcess, statuses: Statuses, asked: Mapping[int, Questions], found: Sequence[Results]
) -> list[Answers]:
    tids = [frozen.tids[index] for index in asked]
    return [
        Answers(tid, frozen.threads.array[index], statuses[tid], facts, its, results)
        for (index, its), tid, facts, results in zip(asked.items(), tids, read_facts(tids), found, strict=True)
    ]


def _leader_questions(timers: Sequence[PosixTimer]) -> Questions:
    return Questions(leader=True, timers=timers) if timers else questions(leader=True)


@dataclass(slots=True)
class Cores:
    """Makes core images. `filters` are the seccomp filters of the tree, found on the way."""

    filters: seccomp.Filters
    _known: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    def collect(self, answers: Answers) -> CoreEntry:
        """The image of one thread, without what a leader has beside; CollectError for what cannot be carried."""
        raw, asked, results = answers.raw, answers.asked, answers.results
        found = registers_of(raw)
        refused.check_thread(
            answers.tid, found, has_io_ports=answers.facts.has_io_ports, keyring=results.value(asked.marks.keyring)
        )
        core = CoreEntry.FromString(self._common(answers))
        core.thread_info.MergeFrom(registers.collect(found, thread.clear_child_tid(asked.thread, results)))
        entry = core.thread_core
        process_tree.collect_thread_core(
            entry,
            (raw.robust_head, raw.robust_len),
            raw.sigmask,
            (raw.rseq_address, raw.rseq_size, raw.rseq_signature),
            xstate_of(raw, usable_size()),
        )
        entry.comm = answers.status.name
        signals.collect_stack(asked.stack, results, entry.sas)
        if pending := answers.status.sig_pending:
            entry.signals_p.CopyFrom(collect_queue(answers.tid, pending, shared=False))
        seccomp.collect(answers.tid, answers.status.seccomp, self.filters, entry)
        return core

    def _common(self, answers: Answers) -> bytes:
        """What most threads have alike, encoded."""
        key = (answers.status.rights, answers.facts.scheduling, *answers.asked.common(answers.results))
        if key not in self._known:
            self._known[key] = _collect_common(answers).SerializePartialToString()
        return self._known[key]


def _collect_common(answers: Answers) -> CoreEntry:
    """What is equal for threads of equal rights, scheduling and common answers."""
    asked, results = answers.asked, answers.results
    core = CoreEntry(mtype=CoreEntry.X86_64)
    entry = core.thread_core
    entry.cg_set = process_tree.CGROUP_SET
    entry.creds.CopyFrom(credentials.collect(answers.status.whole(), results.value(asked.securebits)))
    entry.pdeath_sig = thread.parent_death_signal(asked.thread, results)
    entry.signals_p.SetInParent()
    scheduling.collect(parse_scheduling(answers.facts.scheduling), entry)
    thread_settings.collect(asked.settings, results, entry)
    return core


def collect_queue(tid: int, pending: int, *, shared: bool) -> SignalQueueEntry:
    """Queued signals of a thread or (`shared`) its process; read only where something is pending."""
    queued = ptrace.peek_signals(tid, shared=shared) if pending else []
    return signals.collect_queue(queued, pending)


def collect_crowd(asked: AskedCrowd | RecordedCrowd, cores: Cores, images: ImageSet) -> None:
    """Add the image of every one of them; CollectError for what cannot be carried."""
    crowd, found = asked.sorted()
    own_tids = asked.statuses.own_tids
    ids = [own_tids[tid] for tid in asked.tids]
    encoded = crowd.encode([_pieces(asked.of(index), cores.filters) for index in found.firsts])
    images.extend_each(kinds.CORE, {id: Unparsed(CoreEntry, one) for id, one in zip(ids, encoded, strict=True) if one})
    for index in found.alone:
        images.add(kinds.CORE, cores.collect(asked.of(index)), ids[index])


def _places() -> Places:
    asked = questions()
    outs, places = asked.template.outs, asked.template.places
    return Places(outs[places[id(asked.thread.clear_child_tid)], 1][0], outs[places[id(asked.stack)], 1][0])


def _pieces(answers: Answers, filters: seccomp.Filters) -> Pieces:
    common = _collect_common(answers)
    entry = common.thread_core
    seccomp.collect(answers.tid, answers.status.seccomp, filters, entry)
    info = common.thread_info
    info.fpregs.CopyFrom(registers.NO_FPREGS)
    scheduled, rights, cgroup, settings = (_fields(entry, numbers) for numbers in FIELDS)
    return Pieces(scheduled, rights, cgroup, settings, info.SerializePartialToString())


def _fields(entry: ThreadCoreEntry, numbers: range) -> bytes:
    """Those fields alone, encoded."""
    part = ThreadCoreEntry()
    part.CopyFrom(entry)
    for descriptor, _ in part.ListFields():
        if descriptor.number not in numbers:
            part.ClearField(descriptor.name)
    return part.SerializePartialToString()
