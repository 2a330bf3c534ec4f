"""Supervisors by name of the parent and by systemd unit, by value."""

import pytest

from core.preflight.supervisors import by_parent, by_unit, systemd_unit
from core.proc.reader import CgroupPath


@pytest.mark.parametrize("comm", ["supervisord", "runsv", "s6-supervise", "containerd-shim", "PM2 v5: God", "conmon"])
def test_supervisors_are_known_by_name(comm: str) -> None:
    blocker = by_parent(812, 7, comm)
    assert blocker is not None and "pid 7" in blocker.reason and blocker.hint


@pytest.mark.parametrize("comm", ["bash", "sshd", "systemd", "supervise2", ""])
def test_other_parents_restart_nothing(comm: str) -> None:
    assert by_parent(812, 7, comm) is None


def test_the_unit_is_read_from_either_hierarchy() -> None:
    v2 = (CgroupPath(0, (), "/system.slice/redis-server.service"),)
    v1 = (CgroupPath(4, ("memory",), "/x.service"), CgroupPath(1, ("name=systemd",), "/system.slice/redis.service"))
    assert (systemd_unit(v2), systemd_unit(v1)) == ("redis-server.service", "redis.service")


def test_a_login_session_or_scope_is_no_unit() -> None:
    assert systemd_unit((CgroupPath(0, (), "/user.slice/user-0.slice/user@0.service"),)) is None
    assert systemd_unit((CgroupPath(0, (), "/user.slice/user-0.slice/session-4.scope"),)) is None


def test_restart_of_the_main_process_is_refused_with_the_way_out() -> None:
    blocker = by_unit(812, "redis.service", {"Restart": "always", "MainPID": "812"})
    assert blocker is not None and "Restart=always" in blocker.reason
    assert "redis.service.d" in (blocker.hint or "")


@pytest.mark.parametrize("properties", [{"Restart": "no", "MainPID": "812"}, {"Restart": "always", "MainPID": "7"}, {}])
def test_a_unit_that_would_not_restart_it(properties: dict[str, str]) -> None:
    assert by_unit(812, "redis.service", properties) is None
