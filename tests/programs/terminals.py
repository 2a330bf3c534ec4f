# Pairs of pseudo-terminals keep their settings, what waits in them in both directions, and what each end is set to.

import array
import fcntl
import os
import pty
import select
import stat
import termios
import tty

from check import expect, program

TIOCGPKT, TIOCGEXCL, TIOCGPTLCK, TIOCSPTLCK = 0x80045438, 0x80045440, 0x80045439, 0x40045431
TIOCGLCKTRMIOS, TIOCSLCKTRMIOS = 0x5456, 0x5457


def switch(fd: int, request: int) -> int:
    value = array.array("i", [0])
    fcntl.ioctl(fd, request, value)
    return value[0]


def have(count: int, fd: int) -> None:
    """The kernel treats what is written to the other end a moment later."""
    while switch(fd, termios.FIONREAD) < count:
        os.sched_yield()


def drain(fd: int) -> bytes:
    os.set_blocking(fd, False)
    found = b""
    try:
        while True:
            found += os.read(fd, 8192)
    except BlockingIOError:
        return found


def hangs_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


with program() as check:
    # by line: two lines, an end of file, and an unfinished line with a quoted special character
    master, slave = pty.openpty()
    settings = termios.tcgetattr(slave)
    settings[6][termios.VERASE], settings[4], settings[5] = b"\x08", termios.B9600, termios.B9600
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    settings = termios.tcgetattr(slave)
    termios.tcsetwinsize(slave, (33, 77))
    os.fchmod(slave, 0o602)
    os.fchown(slave, 12, 34)
    other = os.open(os.ttyname(slave), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    again = os.dup(slave)
    os.write(master, b"one\ntwo\x04\x04unfin\x16\x03")
    have(6, slave)
    echoed = b"one\r\ntwounfin^\b^C"
    have(len(echoed), master)
    os.write(slave, b"out\n")
    have(len(echoed) + 5, master)

    # byte by byte, with more than the kernel keeps at one place
    raw_master, raw_slave = pty.openpty()
    tty.setraw(raw_slave)
    os.set_blocking(raw_master, False)
    typed = bytes(range(256)) * 25
    expect(os.write(raw_master, typed), len(typed))
    shown = typed[::-1]
    os.set_blocking(raw_slave, False)
    expect(os.write(raw_slave, shown), len(shown))
    have(4095, raw_slave)
    have(4095, raw_master)

    # packet mode, locks, exclusive, a speed of its own, no slave open any more
    odd_master, odd_slave = pty.openpty()
    locked = bytearray(36)
    locked[12:16] = termios.ECHO.to_bytes(4, "little")
    fcntl.ioctl(odd_slave, TIOCSLCKTRMIOS, bytes(locked))
    fcntl.ioctl(odd_slave, termios.TIOCEXCL)
    fcntl.ioctl(odd_master, termios.TIOCPKT, array.array("i", [1]))
    fcntl.ioctl(odd_master, TIOCSPTLCK, array.array("i", [1]))
    os.write(odd_slave, b"packet\n")
    have(8, odd_master)

    left_master, left_slave = pty.openpty()
    os.write(left_slave, b"left behind\n")
    os.close(left_slave)
    unused_master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)

    cut_master, cut_slave = pty.openpty()
    os.close(cut_master)

    check.ready_and_wait()

    expect(termios.tcgetattr(slave), settings)
    expect(termios.tcgetattr(master)[6][termios.VERASE], b"\x08")
    expect(termios.tcgetwinsize(master), (33, 77))
    found = os.fstat(slave)
    expect((stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid), (0o602, 12, 34))
    expect(os.readlink(f"/proc/self/fd/{other}"), os.ttyname(slave))
    expect(fcntl.fcntl(other, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_NONBLOCK), os.O_WRONLY | os.O_NONBLOCK)
    expect(fcntl.fcntl(slave, fcntl.F_GETFL) & os.O_NONBLOCK, 0)
    os.set_blocking(slave, False)
    expect(os.get_blocking(again), False)
    expect([os.read(slave, 100) for _ in range(3)], [b"one\n", b"two", b""])
    expect(switch(slave, termios.FIONREAD), 0)
    os.write(master, b"!\x08?\n")  # what was unfinished can be edited still
    have(8, slave)
    expect(os.read(slave, 100), b"unfin\x03?\n")
    expect(drain(master), echoed + b"out\r\n" + b"!\b \b?\r\n")
    os.write(other, b"from the other\n")
    have(16, master)
    expect(drain(master), b"from the other\r\n")

    expect(drain(raw_slave), typed)
    expect(drain(raw_master), shown)

    expect([switch(odd_master, one) for one in (TIOCGPKT, TIOCGPTLCK, TIOCGEXCL)], [1, 1, 0])
    expect(switch(odd_slave, TIOCGEXCL), 1)
    was_locked = bytearray(36)
    fcntl.ioctl(odd_slave, TIOCGLCKTRMIOS, was_locked)
    expect(bytes(was_locked), bytes(locked))
    expect(os.read(odd_master, 100), b"\0packet\r\n")

    expect(os.read(left_master, 100), b"left behind\r\n")
    expect(hangs_up(left_master), True)
    expect(hangs_up(unused_master), False)
    expect(switch(unused_master, TIOCGPTLCK), 1)
    expect(os.read(cut_slave, 100), b"")
    expect(hangs_up(cut_slave), True)
