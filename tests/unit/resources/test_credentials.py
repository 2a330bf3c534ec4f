"""The order in which rights are given up: no step takes away what the next one needs."""

from core.images.pb.creds_pb2 import CredsEntry
from core.resources.credentials import PR_CAP_AMBIENT, PR_SET_NO_NEW_PRIVS, PR_SET_SECUREBITS, plan

FULL = (1 << 41) - 1


def entry(*, ambient: int = 0, securebits: int = 0, no_new_privs: int = 0) -> CredsEntry:
    return CredsEntry(
        uid=1, gid=1, euid=1, egid=1, suid=1, sgid=1, fsuid=1, fsgid=1, cap_inh=[ambient, 0], cap_prm=[ambient, 0],
        cap_eff=[0, 0], cap_bnd=[0xFFFFFFFF, 0x1FF], secbits=securebits, cap_amb=[ambient, 0],
        no_new_privs=no_new_privs,
    )  # fmt: skip


def steps(credentials: CredsEntry) -> list[str]:
    names = {PR_SET_SECUREBITS: "securebits", PR_CAP_AMBIENT: "ambient", PR_SET_NO_NEW_PRIVS: "no_new_privs"}
    return [
        names.get(int(op.args[0]), op.name) if op.name == "prctl" else op.name  # type: ignore[call-overload]
        for op in plan(credentials, FULL)
    ]


def test_users_change_before_capabilities_and_no_new_privs_is_last() -> None:
    found = steps(entry(no_new_privs=1))
    assert found.index("setresgid") < found.index("setresuid") < found.index("capset") < found.index("no_new_privs")


def test_ambient_capabilities_are_raised_before_securebits_may_forbid_it() -> None:
    found = steps(entry(ambient=1 << 5, securebits=1 << 6))
    assert found[-4:] == ["capset", "ambient", "securebits", "capset"]


def test_nothing_is_raised_that_was_not() -> None:
    assert "ambient" not in steps(entry()) and steps(entry()).count("capset") == 1
