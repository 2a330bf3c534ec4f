"""The signal by which a borrowed thread reports takes none away that is meant for the program."""

import signal
from dataclasses import replace

from core.proc.reader import ProcReader
from core.tracee.borrow import choose_yield_signal, quiet_signals

URG, WINCH, CHLD = (int(number) for number in (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD))
QUIET = (URG, WINCH, CHLD)


def bits(*numbers: int) -> int:
    return sum(1 << number - 1 for number in numbers)


def test_one_that_the_thread_does_not_block() -> None:
    assert choose_yield_signal(bits(URG), QUIET, lambda: bits(WINCH)) == WINCH


def test_else_one_that_is_not_pending() -> None:
    assert choose_yield_signal(bits(*QUIET), QUIET, lambda: bits(URG)) == WINCH
    assert choose_yield_signal(bits(*QUIET), QUIET, lambda: bits(*QUIET)) == URG


def test_what_the_program_catches_is_not_quiet_and_what_it_ignores_is() -> None:
    status = ProcReader().status("self")  # type: ignore[arg-type]  # any record will do
    caught = replace(status, caught=bits(URG), ignored=bits(signal.SIGUSR1, signal.SIGTSTP))
    assert quiet_signals(caught) == (WINCH, CHLD, signal.SIGUSR1)
