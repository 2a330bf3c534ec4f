"""Guests run the kernels they were asked for, the product in them, and do not outlive a command that hangs."""

import pytest

from tests.vm import SUPPORTED_KERNELS, Guest, make_lab

pytestmark = pytest.mark.timeout(1800)  # building what guests are made of is part of the first test


def test_each_guest_runs_the_kernel_it_was_asked_for(guests: tuple[Guest, Guest]) -> None:
    for guest, series in zip(guests, SUPPORTED_KERNELS, strict=True):
        assert guest.output("uname", "-r").startswith(f"{series}.")


def test_guests_log_in_to_each_other(guests: tuple[Guest, Guest]) -> None:
    for here, there in (guests, guests[::-1]):
        assert here.output("ssh", there.name, "hostname") == there.name


def test_written_pages_are_found_in_the_way_that_each_kernel_has(guests: tuple[Guest, Guest]) -> None:
    for guest, has_scan in zip(guests, ("no", "yes"), strict=True):
        words = dict(line.split()[:2] for line in guest.output("migrate", "features", timeout_s=300).splitlines())
        assert (words["soft_dirty"], words["pagemap_scan"]) == ("yes", has_scan)


def test_a_command_that_does_not_end_ends_its_guest_and_shows_the_console() -> None:
    with make_lab() as lab:
        [guest] = lab.boot({"vm-c": SUPPORTED_KERNELS[0]})
        with pytest.raises(AssertionError, match=r"not in 20 s(.|\n)*vm-c\|"):
            guest.run(["sleep", "1000"], timeout_s=20)
        assert not guest.runs
