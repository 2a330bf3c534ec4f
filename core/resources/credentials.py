"""Credentials of a thread: user and group ids, capability sets, securebits, no_new_privs. Set in the last stage."""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from core.images.pb.creds_pb2 import CredsEntry
from core.plan.ops import Program, Syscall
from core.proc.status import Status

PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_GET_SECUREBITS: Final = 27
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
NO_SETUID_FIXUP: Final = 4
CAPABILITY_VERSION_3: Final = 0x20080522
LAST_CAPABILITY: Final = 40
CAP_SETPCAP: Final = 8


def securebits_question() -> Syscall:
    """What are your securebits?"""
    return Syscall("prctl", (PR_GET_SECUREBITS, 0, 0, 0, 0), "securebits")


def _words(mask: int) -> tuple[int, int]:
    return mask & 0xFFFFFFFF, mask >> 32


def _mask(words: Sequence[int]) -> int:
    return sum(word << 32 * index for index, word in enumerate(words))


def collect(status: Status, securebits: int) -> CredsEntry:
    """Credentials as /proc/PID/status tells them."""
    uid, euid, suid, fsuid = status.uids
    gid, egid, sgid, fsgid = status.gids
    return CredsEntry(
        uid=uid, euid=euid, suid=suid, fsuid=fsuid, gid=gid, egid=egid, sgid=sgid, fsgid=fsgid,
        groups=status.groups, secbits=securebits, no_new_privs=int(bool(status.no_new_privs)),
        cap_inh=_words(status.cap_inh), cap_prm=_words(status.cap_prm), cap_eff=_words(status.cap_eff),
        cap_bnd=_words(status.cap_bnd), cap_amb=_words(status.cap_amb),
    )  # fmt: skip


def permitted(entry: CredsEntry) -> int:
    """The permitted set, as a mask."""
    return _mask(entry.cap_prm)


def bounding(entry: CredsEntry) -> int:
    """The bounding set, as a mask."""
    return _mask(entry.cap_bnd)


def plan(entry: CredsEntry, launcher_bounding: int) -> Program:
    """From the launcher's full rights to exactly these, in the order in which no step takes the next one's right.

    Equal credentials give the very same program.
    """
    return _planned(entry.SerializeToString(deterministic=True), launcher_bounding)


@lru_cache(maxsize=64)
def _planned(encoded: bytes, launcher_bounding: int) -> Program:
    entry = CredsEntry.FromString(encoded)
    groups = struct.pack(f"<{len(entry.groups)}I", *entry.groups)
    return (
        *_plan_bounding(_mask(entry.cap_bnd), launcher_bounding),
        Syscall("setgroups", (len(entry.groups), groups or 0), "supplementary groups"),
        Syscall("prctl", (PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0), "keep capabilities while the user changes"),
        Syscall("setresgid", (entry.gid, entry.egid, entry.sgid), "group ids"),
        Syscall("setfsgid", (entry.fsgid,), "file system group id", may_fail=True),
        Syscall("setresuid", (entry.uid, entry.euid, entry.suid), "user ids"),
        Syscall("setfsuid", (entry.fsuid,), "file system user id", may_fail=True),
        *_plan_ambient(entry),
        Syscall("prctl", (PR_SET_SECUREBITS, entry.secbits, 0, 0, 0), "securebits"),
        _plan_capset(entry.cap_eff, entry.cap_prm, entry.cap_inh),
        *_plan_no_new_privs(entry),
    )


def _plan_bounding(wanted: int, launcher: int) -> Program:
    return tuple(
        Syscall("prctl", (PR_CAPBSET_DROP, number, 0, 0, 0), f"capability {number} out of the bounding set")
        for number in range(LAST_CAPABILITY + 1)
        if launcher >> number & 1 and not wanted >> number & 1
    )


def _plan_capset(effective: Sequence[int], permitted: Sequence[int], inheritable: Sequence[int]) -> Syscall:
    header = struct.pack("<II", CAPABILITY_VERSION_3, 0)
    low, high = ((effective[i], permitted[i], inheritable[i]) for i in range(2))
    return Syscall("capset", (header, struct.pack("<6I", *low, *high)), "capability sets")


def _plan_ambient(entry: CredsEntry) -> Program:
    """Before the securebits, which may forbid it; a capability is raised while it is permitted and inheritable."""
    mask = _mask(entry.cap_amb)
    if not mask:
        return ()
    needed = _words(mask | 1 << CAP_SETPCAP)
    raised = tuple(
        Syscall("prctl", (PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), f"ambient capability {number}")
        for number in range(LAST_CAPABILITY + 1)
        if mask >> number & 1
    )
    return (_plan_capset(needed, _words(mask | _mask(entry.cap_prm) | 1 << CAP_SETPCAP), entry.cap_inh), *raised)


def _plan_no_new_privs(entry: CredsEntry) -> Program:
    if not entry.no_new_privs:
        return ()
    return (Syscall("prctl", (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs"),)
