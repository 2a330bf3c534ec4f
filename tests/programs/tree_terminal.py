# A terminal emulator goes on with its shell and the shell's job: controlling terminal, foreground group, Ctrl-C.

import fcntl
import os
import pty
import signal
import sys
import termios
import time

from check import Check, expect, program

TIOCGSID = 0x5429


seen = bytearray()


def until(fd: int, wanted: bytes) -> None:
    """Read until `wanted` has come; what follows is kept."""
    while wanted not in seen:
        seen.extend(os.read(fd, 1000))
    del seen[: seen.index(wanted) + len(wanted)]


def be_job(check: Check) -> None:
    """In the foreground, with a descriptor of /dev/tty and a background helper that has none."""
    own = os.open("/dev/tty", os.O_RDWR)
    os.write(own, b"job ready\n")
    check.wait()
    expect(os.readlink(f"/proc/self/fd/{own}"), "/dev/tty")
    expect(os.tcgetpgrp(own), os.getpgrp())
    expect(os.ttyname(0), os.readlink("/proc/self/fd/1"))
    os.close(os.open("/dev/tty", os.O_RDONLY))
    os.write(1, b"job read " + os.read(0, 100))
    signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b"job resized %d\n" % os.get_terminal_size(0).columns))
    os.write(1, b"job waits\n")
    while True:
        time.sleep(60)


def be_shell(check: Check) -> None:
    """A session's leader with one job."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        be_job(check)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, status = os.waitpid(job, 0)
    expect(os.WTERMSIG(status), signal.SIGINT)
    expect(os.tcgetpgrp(0), job)
    os.tcsetpgrp(0, os.getpgrp())
    expect(int.from_bytes(fcntl.ioctl(0, TIOCGSID, bytes(4)), sys.byteorder), os.getpid())
    os.write(1, b"shell done\n")


with program() as check:
    shell, master = pty.fork()
    if shell == 0:
        try:
            be_shell(check)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the root reads it
            os.write(1, f"failed: {error!r}\n".encode())
        os._exit(0)
    until(master, b"job ready\r\n")
    os.write(master, b"typed before\nand")
    until(master, b"and")

    check.ready_and_wait()

    until(master, b"job read typed before\r\n")
    until(master, b"job waits\r\n")
    termios.tcsetwinsize(master, (20, 123))
    until(master, b"job resized 123\r\n")
    os.write(master, b"\x03")
    until(master, b"shell done\r\n")
    expect(os.waitpid(shell, 0)[1], 0)
