"""What the API takes as options is what the command line takes, of a migration and of a check."""

import subprocess
import sys

import pytest

from migrate.api.models import MoveOptions
from migrate.fleet.inventory import MoveChoices
from migrate.fleet.reach import Address
from migrate.fleet.worker import FLAGS, OPTIONS, move_arguments

NOBODY = 4_194_303
THERE = Address("b", "root@nowhere.invalid", (("remote_command", "sudo -n migrate"),))
ALL = MoveOptions(
    tcp="close", pid_mode="namespace", shared=["/srv"], cpu_check="fpu", tty="new", shell_job=True, ext_unix_sk=True,
    file_locks=True, link_remap=True, max_downtime="200ms", deadline="10m", bandwidth="1gbit", compress="zstd",
)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "options"), [([], ALL.model_dump()), (["check"], ALL.model_dump(include=set(MoveChoices.model_fields)))]
)
def test_every_option_is_one_of_the_commands(command: list[str], options: dict[str, object]) -> None:
    words = move_arguments(NOBODY, THERE, options)
    done = subprocess.run(
        [sys.executable, "-m", "migrate.cli", *command, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3 and str(NOBODY) in done.stderr, done.stdout + done.stderr
    assert {OPTIONS.get(key) or FLAGS.get(key) or "--shared" for key in options} <= set(words)


def test_what_is_not_asked_for_is_no_flag() -> None:
    words = move_arguments(1, THERE, MoveOptions().model_dump())
    assert not {"--shell-job", "--ext-unix-sk", "--file-locks", "--link-remap", "--tty"} & set(words)
