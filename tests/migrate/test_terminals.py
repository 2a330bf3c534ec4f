"""A process in somebody's terminal is moved with `--tty`: at the destination `migrate attach` is that terminal."""

import contextlib
import os
import pty
import re
import select
import termios
import time
from collections.abc import Iterator

from tests.hosts import Host, HostPopen
from tests.migrate.moving import STATE_DIR, Pair, assert_nothing_left, is_traced, processes
from tests.waiting import wait_until

# What a terminal emulator or sshd does: argv[1] gets what is shown, argv[2] is what is typed, the rest is run in it.
EMULATOR = """
import os, pty, select, sys
shown, typed, *command = sys.argv[1:]
pid, master = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
keys = os.open(typed, os.O_RDWR)
with open(shown, "ab", buffering=0) as file:
    while True:
        for fd in select.select([master, keys], [], [])[0]:
            if fd == keys:
                os.write(master, os.read(keys, 4096))
            else:
                file.write(os.read(master, 4096))
"""
ECHO = 'import sys\nfor line in sys.stdin: print("got", line.strip(), flush=True)'


class Screen:
    """A program in a terminal of host-a, or of another host."""

    def __init__(self, pair: Pair, name: str, *command: str, on: Host | None = None) -> None:
        self._host = host = on or pair.a
        self.shown, self._typed = pair.folder / f"{name}.shown", pair.folder / f"{name}.typed"
        self.shown.touch()
        os.mkfifo(self._typed)
        script = pair.folder / "emulator.py"
        script.write_text(EMULATOR)
        self.emulator = host.start(["python3", "-I", str(script), str(self.shown), str(self._typed), *command])
        self.pid = wait_until(lambda: children(host, self.emulator), "the program is started")[0]

    def type(self, keys: str) -> None:
        with open(self._typed, "w") as file:
            file.write(keys)

    def wait_shows(self, pattern: str) -> None:
        try:
            wait_until(lambda: re.search(pattern, self.shown.read_text()), pattern)
        except AssertionError as error:
            raise AssertionError(f"not shown: {pattern!r}; but {self.shown.read_text()!r}") from error

    def close(self) -> None:
        """An emulator leaves by itself when nothing is left in its terminal."""
        with contextlib.suppress(ProcessLookupError):
            self._host.kill(self.emulator)


class Attached:
    """`migrate attach` in a terminal of this test."""

    def __init__(self, process: HostPopen, master: int) -> None:
        self.process, self._master = process, master
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_shows(self, pattern: str, deadline_s: float = 20) -> None:
        """From here on; what was shown up to that is forgotten."""
        end = time.monotonic() + deadline_s
        while (found := re.search(pattern, self.shown)) is None:
            if not select.select([self._master], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"not shown: {pattern!r}; but {self.shown!r}")
            try:
                self.shown += os.read(self._master, 4096).decode(errors="replace")
            except OSError as error:  # the other end is closed
                raise AssertionError(f"not shown: {pattern!r}; but {self.shown!r}") from error
        self.shown = self.shown[found.end() :]

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self._master, (rows, columns))


def children(host: Host, pid: int) -> list[int]:
    return [int(word) for word in host.path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def attached(host: Host, *words: str) -> Iterator[Attached]:
    """At 24 rows of 80 columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(master, (24, 80))
    try:
        argv = ["setsid", "-c", "migrate", "attach", *words]
        with host.popen(argv, stdin=slave, stdout=slave, stderr=slave) as process:
            os.close(slave)
            try:
                yield Attached(process, master)
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        os.close(master)


def move(pair: Pair, pid: int, migration_id: str) -> None:
    said = pair.migrate(pid, "root@host-b", "--tty", "new", "--id", migration_id, "--max-downtime", "5s")
    assert said.code == 0, said.text
    assert not pair.a.alive(pid) and pair.b.alive(pid)
    assert f"migrate attach {migration_id}" in said.text


def gone(host: Host, migration_id: str) -> bool:
    socket = host.path(f"{STATE_DIR}/terminals/{migration_id}.sock")
    return not socket.exists() and not processes(host, "migrate.terminal.server")


def test_an_interactive_shell_goes_on_in_its_new_terminal(pair: Pair) -> None:
    screen = Screen(pair, "shell", "sh", "-i")
    screen.type("x=40; PS1='> '\n")
    screen.wait_shows("> $")
    move(pair, screen.pid, "shell")
    with attached(pair.b) as terminal:
        terminal.type("echo sum $((x+2))\n")
        terminal.wait_shows("sum 42\r\n")
        terminal.type("stty size\n")
        terminal.wait_shows("24 80\r\n")
        terminal.resize(30, 100)
        terminal.type("stty size\n")
        terminal.wait_shows("30 100\r\n")
        terminal.type("sleep 1000\n")
        wait_until(lambda: processes(pair.b, "sleep 1000"), "the job runs")
        terminal.type("\x03")  # its group is the terminal's foreground group
        terminal.wait_shows("\\^C")
        terminal.type("echo still $((x))\n")
        terminal.wait_shows("still 40\r\n")
        terminal.type("\x1c")
        terminal.wait_shows("it runs on")
        assert terminal.process.wait(20) == 0
    assert pair.b.alive(screen.pid)
    with attached(pair.b, "shell") as terminal:
        terminal.wait_shows("sum 42")  # what was shown before is shown again
        terminal.type("exit\n")
        terminal.wait_shows("shell has ended")
        assert terminal.process.wait(20) == 0
    wait_until(lambda: gone(pair.b, "shell"), "the terminal's keeper has ended")
    assert_nothing_left([pair.a, pair.b])


def test_a_job_of_a_shell_leaves_it_and_leads_its_new_terminal(pair: Pair) -> None:
    script = pair.folder / "echo.py"
    script.write_text(ECHO)
    screen = Screen(pair, "job", "sh", "-i")
    screen.type(f"python3 -I {script}\n")
    pid = wait_until(lambda: children(pair.a, screen.pid), "the job runs")[0]
    screen.type("one\n")
    screen.wait_shows("got one")
    move(pair, pid, "job")
    with attached(pair.b, "job") as terminal:
        terminal.type("two\n")
        terminal.wait_shows("got two\r\n")
        terminal.type("\x03")
        terminal.wait_shows("job has ended")
    wait_until(lambda: gone(pair.b, "job"), "the terminal's keeper has ended")
    screen.close()


def test_output_that_nobody_looks_at_does_not_hold_it_up(pair: Pair) -> None:
    screen = Screen(pair, "much", "sh", "-c", f"while [ ! -e {pair.folder}/go ]; do sleep 0.05; done;"
                    f" seq 200000; touch {pair.folder}/all-said; read word; echo read $word; sleep 1000")  # fmt: skip
    move(pair, screen.pid, "much")
    (pair.folder / "go").touch()
    wait_until((pair.folder / "all-said").exists, "it wrote everything", deadline_s=30)
    with attached(pair.b, "much") as terminal:
        terminal.wait_shows("199999\r\n200000\r\n")
        terminal.type("this\n")
        terminal.wait_shows("read this\r\n")
    pair.b.kill(screen.pid)
    wait_until(lambda: gone(pair.b, "much"), "the terminal's keeper has ended")


def test_a_terminal_over_there_can_be_named(pair: Pair) -> None:
    script = pair.folder / "echo2.py"
    script.write_text(ECHO)
    there = Screen(pair, "there", "sh", "-c", "tty; exec sleep 1000", on=pair.b)
    there.wait_shows("/dev/pts/.*\n")
    path = there.shown.read_text().split()[0]
    screen = Screen(pair, "named", "sh", "-c", f"exec python3 -I {script}")
    refused = pair.migrate(screen.pid, "root@host-b", "--tty", "/dev/pts/4000")
    assert refused.code in (1, 3) and "/dev/pts/4000: cannot be opened" in refused.text, refused.text
    not_one = pair.migrate(screen.pid, "root@host-b", "--tty", "/dev/null")
    assert not_one.code in (1, 3) and "/dev/null: is no terminal" in not_one.text, not_one.text
    assert pair.a.alive(screen.pid) and not is_traced(pair.a, screen.pid)
    screen.type("here\n")
    screen.wait_shows("got here")
    said = pair.migrate(screen.pid, "root@host-b", "--tty", path)
    assert said.code == 0, said.text
    there.type("there\n")
    there.wait_shows("got there")
    pair.b.kill(screen.pid)
    there.close()
    screen.close()


def test_without_a_word_about_it_a_terminal_is_refused_and_the_hint_names_the_option(pair: Pair) -> None:
    screen = Screen(pair, "refused", "sh", "-i")
    said = pair.migrate(screen.pid, "root@host-b")
    assert said.code == 3 and "a terminal cannot be carried" in said.text and "--tty new" in said.text, said.text
    screen.close()


def test_nothing_to_attach_to_is_said(pair: Pair) -> None:
    said = pair.migrate("attach", on=pair.b)
    assert said.code == 1 and "no terminal of a moved process is kept here" in said.text
    said = pair.migrate("attach", "none", on=pair.b)
    assert said.code == 1 and "none: no terminal of that migration is kept here" in said.text
