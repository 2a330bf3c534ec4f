"""What a thread chose by prctl(2) and its like: timer slack, speculation, NUMA policy. Asked and set in the thread."""

from dataclasses import dataclass, field
from typing import Final

from core.images.pb.core_pb2 import ThreadCoreEntry
from core.plan.ops import Out, Program, Syscall
from core.tracee.borrow import Results

PR_SET_TIMERSLACK: Final = 29
PR_GET_TIMERSLACK: Final = 30
PR_GET_SPECULATION_CTRL: Final = 52
PR_SET_SPECULATION_CTRL: Final = 53
PR_SPEC_PRCTL: Final = 1  # the thread may set it
# Misfeatures in the order of their numbers, with what a thread begins with: SSB and IBP enabled, L1D flush disabled.
SPECULATION: Final = (("store bypass", 3), ("indirect branch", 3), ("L1D flush", 5))
DEFAULT_SLACK_NS: Final = 50_000
MAX_NODES: Final = 1024


@dataclass(frozen=True, slots=True)
class SettingQuestions:
    """Asked of every thread."""

    slack: Syscall = field(
        default_factory=lambda: Syscall("prctl", (PR_GET_TIMERSLACK, 0, 0, 0, 0), "timer slack", may_fail=True)
    )
    speculation: Program = field(
        default_factory=lambda: tuple(
            Syscall("prctl", (PR_GET_SPECULATION_CTRL, number, 0, 0, 0), f"speculation: {name}", may_fail=True)
            for number, (name, _) in enumerate(SPECULATION)
        )
    )
    policy: Syscall = field(
        default_factory=lambda: Syscall(
            "get_mempolicy", (Out(4), Out(MAX_NODES // 8), MAX_NODES, 0, 0), "NUMA policy", may_fail=True
        )
    )

    @property
    def program(self) -> Program:
        """All of it, to be run in one go."""
        return (self.slack, *self.speculation, self.policy)


def collect(questions: SettingQuestions, results: Results, entry: ThreadCoreEntry) -> None:
    """Fill the image's fields with what differs from what every thread begins with."""
    slack = results.value(questions.slack)
    if slack >= 0 and slack != DEFAULT_SLACK_NS:
        entry.timer_slack_ns = slack
    states = [results.value(op) for op in questions.speculation]
    if any(is_chosen(number, state) for number, state in enumerate(states)):
        entry.speculation.extend(max(state, 0) for state in states)
    mode = int.from_bytes(results.out(questions.policy, 0), "little")
    if results.value(questions.policy) == 0 and mode:
        entry.memory_policy = mode
        entry.memory_nodes = results.out(questions.policy, 1).rstrip(b"\0")


def is_chosen(number: int, state: int) -> bool:
    """True when the thread has set misfeature `number` to something of its own."""
    return state > 0 and bool(state & PR_SPEC_PRCTL) and state != SPECULATION[number][1]


def plan(entry: ThreadCoreEntry) -> Program:
    """Set what was chosen, and else what every thread begins with: it has what its maker chose."""
    slack = entry.timer_slack_ns if entry.HasField("timer_slack_ns") else DEFAULT_SLACK_NS
    nodes = entry.memory_nodes.ljust(MAX_NODES // 8, b"\0")
    mask = nodes if entry.memory_policy and entry.memory_nodes else 0
    policy = Syscall("set_mempolicy", (entry.memory_policy, mask, MAX_NODES + 1 if mask else 0), "NUMA policy")
    if not slack:  # of a real-time thread, which has none
        return (policy,)
    return (Syscall("prctl", (PR_SET_TIMERSLACK, slack, 0, 0, 0), "timer slack"), policy)


def plan_speculation(entry: ThreadCoreEntry) -> Program:
    """Late, as some states cannot be left again. A host that is not affected has nothing to set, hence may_fail."""
    return tuple(
        Syscall(
            "prctl", (PR_SET_SPECULATION_CTRL, number, state & ~PR_SPEC_PRCTL, 0, 0),
            f"speculation: {SPECULATION[number][0]}", may_fail=True,
        )
        for number, state in enumerate(entry.speculation[: len(SPECULATION)])
        if is_chosen(number, state)
    )  # fmt: skip
