"""Images of many threads, made all at once, are those that are made of each thread alone."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from core.native._kernel import ffi

import core.collect
from core.collect_threads import Asked, AskedCrowd, Cores, Process, RecordedCrowd, ask_all, collect_crowd, questions
from core.errors import CollectError, RemoteSyscallError, TraceeError
from core.images import kinds
from core.images.codec import encode_file
from core.images.store import ImageSet
from core.kernel.calls import syscall
from core.kernel.thread_records import open_thread_records
from core.plan.encode import assemble
from core.plan.ops import Syscall
from core.proc.statuses import Statuses
from core.resources import seccomp
from core.tracee.together import run_alike
from tests.requires import require_root
from tests.roundtrip.targets import attached, ready

NOBODY, EVERYBODY = 1 << 30, 0
PROGRAMS = (
    "affinity", "alt_stack", "comm", "nice", "pending_signals", "robust_list", "rseq", "sched_policy",
    "seccomp_filters", "signal_masks", "thread_bases", "thread_choices", "thread_ids", "threads_crowd", "timed_waits",
    "tree_rights",
)  # fmt: skip
OF_ALL_KINDS = "threads_crowd"  # too many for each to be asked alone
LINES = (b"Name", b"Uid", b"Gid", b"SigPnd", b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb")


def setup_module() -> None:
    require_root()


def cores_of(asked: Sequence[Asked]) -> dict[int, bytes]:
    """Core images by id, as a file holds them."""
    images, cores = ImageSet(), Cores(seccomp.Filters())
    for one in asked:
        for answers in one.answers:
            images.add(kinds.CORE, cores.collect(answers), answers.status.own_tid)
        if one.crowd is not None:
            collect_crowd(one.crowd, cores, images)
    return {id: encode_file(kind, "core", records) for kind, id, records in images if id is not None}


def looked_at(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[list[Process]], None]
) -> None:
    """`look` is called while the program stands still; afterwards it runs on and passes."""

    def ask_and_look(processes: list[Process]) -> list[Asked]:
        look(processes)
        return ask_all(processes)

    with ready(name, tmp_path) as run:
        with attached(run.pid) as source:
            source.scan()
            monkeypatch.setattr(core.collect, "ask_all", ask_and_look)
            source.freeze()
        run.release()
        assert run.result() == "PASS"


@pytest.mark.parametrize("name", PROGRAMS)
def test_all_ways_make_the_same_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(processes: list[Process]) -> None:
        alone, together = ask_all(processes, NOBODY), ask_all(processes, EVERYBODY)
        assert all(one.crowd is None for one in alone)
        assert any(isinstance(one.crowd, AskedCrowd) for one in together)
        assert cores_of(together) == cores_of(alone)
        by_records = ask_all([with_records(one) for one in processes], EVERYBODY)
        assert any(isinstance(one.crowd, RecordedCrowd) for one in by_records) == (name != OF_ALL_KINDS)
        assert cores_of(by_records) == cores_of(alone)

    looked_at(f"{name}.c", tmp_path, monkeypatch, compare)


def test_signals_that_others_send_do_not_end_what_a_thread_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_and_compare(processes: list[Process]) -> None:
        [(frozen, borrow, _, _)] = processes
        alone = cores_of(ask_all(processes, NOBODY))
        for tid in frozen.tids[1:]:
            syscall("tgkill", frozen.pid, tid, borrow.quiet[0])
        assert cores_of(ask_all(processes, EVERYBODY)) == alone

    looked_at("thread_ids.c", tmp_path, monkeypatch, send_and_compare)


def test_a_call_that_fails_in_one_of_many_threads_is_named_and_all_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = assemble((Syscall("close", (-1,), "no descriptor"),))

    def fail(processes: list[Process]) -> None:
        [(frozen, borrow, _, _)] = processes
        with pytest.raises(RemoteSyscallError, match="no descriptor"):
            run_alike(borrow, frozen.threads, 1, program)

    looked_at("thread_ids.c", tmp_path, monkeypatch, fail)


def test_a_process_that_is_killed_as_its_threads_are_asked_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_and_ask(processes: list[Process]) -> list[Asked]:
        [(frozen, borrow, _, _)] = processes
        os.kill(frozen.pid, signal.SIGKILL)
        with pytest.raises(TraceeError):
            run_alike(borrow, frozen.threads, 1, questions().template)
        raise TraceeError(frozen.pid, "on purpose")

    with ready("thread_ids.c", tmp_path) as run, attached(run.pid) as source:
        source.scan()
        monkeypatch.setattr(core.collect, "ask_all", kill_and_ask)
        with pytest.raises(TraceeError, match="was killed"):
            source.freeze()


def test_whatever_differs_in_a_thread_is_in_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change_and_compare(processes: list[Process]) -> None:
        crowd = ask_all(processes, EVERYBODY)[0].crowd
        assert crowd is not None
        expect_same(crowd)
        for place in changeable(crowd):
            place[0] = bytes([place[0][0] ^ 1])
            expect_same(crowd)
            place[0] = bytes([place[0][0] ^ 1])
        for line in LINES:
            expect_same(with_other_line(crowd, line))

    looked_at("thread_ids.c", tmp_path, monkeypatch, change_and_compare)


def with_records(process: Process) -> Process:
    """With what the kernel has of its threads."""
    frozen, borrow, statuses, timers = process
    with open_thread_records(frozen.pid) as records:
        found = records.read(frozen.tids)
    return frozen, borrow, Statuses(dict(zip(frozen.tids, statuses.texts(frozen.tids), strict=True)), found), timers


def expect_same(crowd: AskedCrowd) -> None:
    """The images, or the error, are the same both ways."""
    assert outcome(lambda: cores_of([Asked([], crowd)])) == outcome(
        lambda: cores_of([Asked([crowd.of(index) for index in range(len(crowd.tids))], None)])
    )


def outcome(make: Callable[[], dict[int, bytes]]) -> dict[int, bytes] | str:
    try:
        return make()
    except (CollectError, ValueError) as error:
        return repr(error)


def changeable(crowd: AskedCrowd) -> Iterator["ffi.buffer"]:
    """Bytes of what the threads of a crowd are known by; some of them."""
    size = len(questions().template.content)
    thread, facts = crowd.frozen.threads.array + 1, crowd.facts.array + 0
    spans = (
        (thread, ffi.offsetof("struct mg_thread", "regs"), ffi.offsetof("struct mg_thread", "rseq_flags")),
        (thread, ffi.offsetof("struct mg_thread", "robust_head"), ffi.offsetof("struct mg_thread", "xstate")),
        (facts, ffi.offsetof("struct mg_facts", "policy"), ffi.offsetof("struct mg_facts", "affinity_size")),
        (facts, ffi.offsetof("struct mg_facts", "sched_flags"), ffi.offsetof("struct mg_facts", "affinity") + 8),
        (thread.xstate, 0, 600),
        (crowd.answers, 0, size),
    )  # fmt: skip
    for start, first, end in spans:
        content = ffi.cast("unsigned char *", start)
        yield from (ffi.buffer(content + at, 1) for at in (*range(first, end, 4), *range(first + 3, end, 8)))


def with_other_line(crowd: AskedCrowd, key: bytes) -> AskedCrowd:
    """One thread's status says something else there."""
    texts = dict(zip(crowd.tids, crowd.statuses.texts(crowd.tids), strict=True))
    pattern = re.compile(rb"^(" + key + rb":.*)(.)(.)$", re.MULTILINE)
    texts[crowd.tids[0]], count = pattern.subn(lambda found: found[1] + b"1" + found[3], texts[crowd.tids[0]])
    assert count == 1
    return replace(crowd, statuses=Statuses(texts))
