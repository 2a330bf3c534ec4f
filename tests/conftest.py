"""Fixtures that many tests share, and REQUIRE_ALL=1: there a skip is a failure, because CI has everything."""

import os
from collections.abc import Generator, Iterator
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, settings

from tests.hosts import Host, make_hosts
from tests.huge_pages import huge_pages_on_demand
from tests.requires import require_root

# The same examples in every run, and no limit of time for one: a busy machine is no failure.
settings.register_profile("tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

REQUIRE_ALL = os.environ.get("REQUIRE_ALL") == "1"
Report = pytest.TestReport | pytest.CollectReport


def fail_skip(report: Report) -> Report:
    """The same report, failed, when it is a skip; an expected failure stays what it is."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL=1 and this was skipped: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Report, Report]:
    return fail_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Report, Report]:
    return fail_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Of the process that hands out the tests, not of those that run some of them each."""
    with nullcontext() if hasattr(session.config, "workerinput") else huge_pages_on_demand():
        return (yield)


@pytest.fixture(scope="module")
def host_pair() -> Iterator[tuple[Host, Host]]:
    """host-a and host-b, joined, sshd running on both; shared by the tests of a module."""
    require_root()
    with make_hosts("host-a", "host-b") as (a, b):
        a.start_sshd()
        b.start_sshd()
        yield a, b


@pytest.fixture
def fresh_host_pair() -> Iterator[tuple[Host, Host]]:
    """As host_pair, for one test alone: it may break them."""
    require_root()
    with make_hosts("host-a", "host-b") as (a, b):
        a.start_sshd()
        b.start_sshd()
        yield a, b
