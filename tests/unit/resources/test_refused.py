"""What nobody can put back is told by name."""

from core.resources.process_settings import parse_autogroup_nice
from core.resources.refused import judge_label, judge_registers, judge_shadow_stack
from core.resources.thread_settings import is_chosen


def test_code_that_is_not_64_bit() -> None:
    assert "32-bit" in judge_registers(0x23, 0)
    assert judge_registers(0x33, 0x202) == ""


def test_the_right_to_all_io_ports() -> None:
    assert "iopl" in judge_registers(0x33, 0x3202)


def test_a_shadow_stack() -> None:
    status = "Name:\tcat\nx86_Thread_features:\t{}\nx86_Thread_features_locked:\tshstk wrss\n"
    assert "shadow stack" in judge_shadow_stack(status.format("shstk wrss"))
    assert judge_shadow_stack(status.format("")) == judge_shadow_stack("Name:\tcat\n") == ""


def test_a_label_that_a_copy_would_not_get() -> None:
    assert "httpd_t" in judge_label("system_u:system_r:httpd_t:s0\0", "unconfined\n")
    for same in ("", "unconfined\n", "kernel\0", "system_u:system_r:migrate_t:s0\0"):
        assert judge_label(same, "system_u:system_r:migrate_t:s0") == ""


def test_the_nice_value_of_an_autogroup() -> None:
    assert parse_autogroup_nice("/autogroup-25 nice -5\n") == -5
    assert parse_autogroup_nice("") == 0


def test_speculation_counts_only_when_the_thread_set_it() -> None:
    assert is_chosen(0, 1 | 4)
    assert not any(is_chosen(0, state) for state in (-22, 0, 1 | 2, 4))
