"""Puts together what a core image tells of a whole process. Most processes of a tree are alike: that is done once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.collect_threads import Answers, collect_queue
from core.images.pb.core_pb2 import TaskCoreEntry
from core.proc.reader import ProcReader
from core.resources import posix_timers, process_settings, process_tree, refused, scheduling, signals

RAW = ("personality", "limits", "oom_score_adj", "autogroup")


@dataclass(frozen=True, slots=True)
class Facts:
    """What /proc tells of a process, as it says it where that is text; None: this kernel does not tell."""

    flags: int  # as in its stat
    stop_signal: int
    raw: tuple[bytes | None, ...]  # files of RAW


def read_facts(pid: int, flags: int, stop_signal: int, reader: ProcReader) -> Facts:
    """Facts of a stopped process. Any of RAW but autogroup has to be there."""
    return Facts(flags, stop_signal, tuple(_content(pid, name, reader) for name in RAW))


def _content(pid: int, name: str, reader: ProcReader) -> bytes | None:
    try:
        return reader.content(pid, name)
    except FileNotFoundError:
        if name != "autogroup":
            raise
        return None


@dataclass(slots=True)
class Tasks:
    """Fills in what core images have of a process."""

    _known: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    def fill(
        self, pid: int, answer: Answers, facts: Facts, own_tids: Mapping[int, int], reader: ProcReader,
        task: TaskCoreEntry,
    ) -> None:  # fmt: skip
        """`answer`: of the thread that was asked for process `pid`; `own_tids`: tid as we see it → as it does.

        CollectError for what cannot be carried.
        """
        refused.check_process(pid, answer.asked.process_marks, answer.results)
        key = (answer.status.name, answer.raw.sigmask, facts, answer.asked.of_process(answer.results))
        if key not in self._known:
            self._known[key] = _collect_common(pid, answer, facts, reader).SerializeToString()
        task.MergeFromString(self._known[key])
        if pending := answer.status.shared_pending:
            task.signals_s.CopyFrom(collect_queue(pid, pending, shared=True))
        if answer.asked.timers.timers:
            task.timers.posix.extend(posix_timers.collect(answer.asked.timers, answer.results, own_tids))


def _collect_common(pid: int, answer: Answers, facts: Facts, reader: ProcReader) -> TaskCoreEntry:
    """All that `key` above says everything of."""
    questions = answer.asked.process
    task = process_tree.collect_task_core(
        answer.status.name, facts.flags, reader.personality(pid), answer.raw.sigmask, facts.stop_signal
    )
    if questions is not None:
        task.sigactions.extend(signals.collect_actions(questions, answer.results))
        task.timers.CopyFrom(signals.collect_timers(questions, answer.results))
    task.signals_s.SetInParent()
    task.rlimits.CopyFrom(scheduling.collect_limits(reader.limits(pid)))
    task.oom_score_adj = reader.oom_score_adj(pid)
    process_settings.collect(answer.asked.process_settings, answer.results, task)
    group = facts.raw[RAW.index("autogroup")]
    task.autogroup_nice = 0 if group is None else process_settings.parse_autogroup_nice(group.decode())
    return task
