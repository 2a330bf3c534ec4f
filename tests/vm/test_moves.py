"""`migrate PID root@OTHER` between two kernels, over sshd: the program goes on there, and is no longer here."""

import pytest

from tests.vm import Guest
from tests.vm.product import SHARE
from tests.vm.programs import LOWEST, Started, far_off, migrate, start, start_python

pytestmark = pytest.mark.timeout(1800)
WRITER = "n=0; until [ -e /srv/stop ]; do n=$((n+1)); redis-cli SET n $n | grep -q OK && echo $n >/srv/acked; done"


@pytest.mark.parametrize("track", ["auto", "soft-dirty"])
def test_a_c_program_that_rewrites_its_memory_goes_there_and_back(guests: tuple[Guest, Guest], track: str) -> None:
    """By what each kernel has (soft-dirty on 6.1, userfaultfd on 6.12), and by soft-dirty on both."""
    old, new = guests
    program = start(old, "memory_writer-small")
    for here, there in ((old, new), (new, old)):
        migrate(program, here, there, "--track", track)
    program.check(old)


@pytest.mark.parametrize("name", ["aio", "tree_sem_undo", "sockets_alike", "files_alike"])
def test_what_is_read_of_the_kernel_s_memory_goes_there_and_back(guests: tuple[Guest, Guest], name: str) -> None:
    """Each kernel lays it out in its own way."""
    old, new = guests
    program = start(old, name)
    for here, there in ((old, new), (new, old)):
        migrate(program, here, there)
    program.check(old)


def test_facts_about_files_are_believed_on_each_kernel(guests: tuple[Guest, Guest]) -> None:
    script = "from core.kernel import file_facts, file_trials\nwith file_facts.open_file_facts() as facts:\n"
    script += "    print(file_trials.try_facts(facts).events > 0)"
    for guest in guests:
        assert guest.output("env", f"PYTHONPATH={SHARE}/site", "python3", "-B", "-c", script) == "True"


def test_a_python_program_goes_there_and_back(guests: tuple[Guest, Guest]) -> None:
    old, new = guests
    program = start_python(new, "interpreter_objects.py")
    for here, there in ((new, old), (old, new)):
        migrate(program, here, there)
    program.check(new)


def test_redis_goes_there_and_back_with_all_that_it_acknowledged(guests: tuple[Guest, Guest]) -> None:
    old, new = guests
    with far_off(old, "redis"):
        redis = Started(
            old.start_service(["redis-server", "--save", "", "--port", "6379", "--dir", "/srv"]), "/srv/redis"
        )
        old.wait("redis-cli PING | grep -q PONG", "redis answers")
    old.output("redis-cli", "DEBUG", "POPULATE", "2000", "key", "500")
    digest = old.output("redis-cli", "DEBUG", "DIGEST")
    for here, there in ((old, new), (new, old)):
        assert here.output("redis-cli", "DEBUG", "DIGEST") == digest
        here.output("sh", "-c", "rm -f /srv/stop /srv/acked")
        here.start_service([*LOWEST, "sh", "-c", WRITER])
        here.wait("test -e /srv/acked", "a write is acknowledged")
        migrate(redis, here, there, "--tcp", "close")
        here.output("touch", "/srv/stop")
        acknowledged = int(here.output("cat", "/srv/acked"))
        assert int(there.output("redis-cli", "GET", "n")) >= acknowledged > 0
        there.output("redis-cli", "DEL", "n")
    old.output("redis-cli", "SHUTDOWN", "NOSAVE")
