"""`migrate features`: what this kernel can do for us, asked by doing."""

import sys

from migrate.cli.report import table_lines
from migrate.cli.watch import ExitCode, say

# What each answer is good for; without the ones in NEEDED nothing can be moved.
USES = {
    "ptrace": "stopping a process and reading its registers",
    "ptrace_suspend_seccomp": "processes with seccomp filters",
    "kcmp": "finding descriptors that share one open file",
    "pidfd_getfd": "looking into the descriptors of a process",
    "pidfd_thread": "the same where the first thread has ended",
    "clone3_set_tid": "giving a process its PID back",
    "pr_set_mm_map": "putting heap, arguments and environment back",
    "vdso_moves": "putting the vDSO where the process had it (a kernel without CONFIG_MSEAL_SYSTEM_MAPPINGS)",
    "cgroup2_freezer": "holding the copies that must not run",
    "uffd_wp_async": "finding written pages (the best way, with pagemap_scan)",
    "pagemap_scan": "finding written pages (the best way, with uffd_wp_async)",
    "soft_dirty": "finding written pages (the next best way; the last is to compare all memory)",
    "mremap_many": "moving many mappings by one call",
    "huge_pages": "processes with huge pages (hugetlb)",
    "ipc_namespace": "processes in an IPC namespace of their own",
    "aio": "processes with contexts of asynchronous I/O (io_setup)",
    "la57": "processes with memory above the 47-bit line",
    "mseal": "processes with memory that is sealed (mseal)",
}
NEEDED = ("ptrace", "kcmp", "pidfd_getfd", "clone3_set_tid", "pr_set_mm_map", "vdso_moves")


def features() -> int:
    """Tell what this kernel and our rights allow, each asked by doing it.

    Exit code 0: a process can be moved from here and to here. 1: something that is needed is missing.
    """
    from core import collect_host

    there = frozenset(collect_host().features)
    say(table_lines(("FEATURE", "HERE", "FOR"), feature_rows(there)), sys.stdout)
    missing = missing_features(there)
    say([f"missing: {name}: {USES[name]}" for name in missing])
    return ExitCode.FAILED if missing else ExitCode.DONE


def feature_rows(there: frozenset[str]) -> list[tuple[str, str, str]]:
    """Name, yes or no, use; those that we have no words for come last."""
    rows = [(name, "yes" if name in there else "no", use) for name, use in USES.items()]
    return rows + [(name, "yes", "") for name in sorted(there - USES.keys())]


def missing_features(there: frozenset[str]) -> list[str]:
    """What has to be there and is not."""
    return [name for name in NEEDED if name not in there]
