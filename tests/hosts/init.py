"""PID 1 of a test host: makes its mounts, starts programs on request, reaps every orphan.

Run as a script with the control socket's number; the first line on it is the JSON specification. It needs nothing but
the standard library. As soon as the control socket closes, also because the test run was killed, it ends and takes the
whole host with it.
"""

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
LIBC = ctypes.CDLL(None, use_errno=True)
SYS_RT_SIGACTION = 13
LIBC_SIGNALS = (32, 33)  # libc keeps them from its users; whoever started us may have ignored them all the same


def check(result: int, what: str) -> None:
    """Raise OSError naming `what` when a libc call returned -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    words = (source.encode(), target.encode(), kind.encode() if kind else None)
    check(LIBC.mount(*words, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def mount_host(spec: dict[str, Any]) -> None:
    """A file system of its own where a host writes; everything else is the machine's.

    `keep` are directories that stay visible although they lie below one of the new ones.
    """
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc")
    kept = {path: os.open(path, os.O_PATH) for path in spec["keep"]}
    bound = {target: os.open(source, os.O_PATH) for target, source in spec["binds"].items()}
    for path in spec["tmpfs"]:
        mode = "1777" if path in ("/tmp", "/var/tmp", "/dev/shm") else "755"
        mount("tmpfs", path, "tmpfs", options=f"mode={mode}")
    mount("devpts", "/dev/pts", "devpts", options="newinstance,ptmxmode=0666,mode=620,gid=5")
    for path, fd in {**kept, **bound}.items():
        os.makedirs(path, exist_ok=True)
        mount(f"/proc/self/fd/{fd}", path, flags=MS_BIND | MS_REC)
        os.close(fd)
    for path, text in spec["files"].items():
        write_file(path, text)
    for path in spec["over"]:
        mount("/run/over" + path, path, flags=MS_BIND)


def write_file(path: str, text: str) -> None:
    """A file readable by its owner only; ssh insists on that for keys."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    if path.startswith("/run/over/") and not path.endswith("shadow"):
        os.chmod(path, 0o644)


def last_pid() -> int:
    """What set_last_pid said, or the PID that was given since."""
    with open("/proc/sys/kernel/ns_last_pid") as file:
        return int(file.read())


def set_last_pid(pid: int) -> None:
    """The next task of this PID namespace gets `pid` + 1, if that is free."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid))


def become(request: dict[str, Any]) -> None:
    """In a new child: nothing inherited that a service started at boot would not have. Does not return."""
    os.setsid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    for number in LIBC_SIGNALS:
        LIBC.syscall(SYS_RT_SIGACTION, number, bytes(32), None, 8)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o022)
    os.chdir(request["cwd"])
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_RDONLY if fd == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(request[name], flags, 0o644)
        os.dup2(opened, fd)
        if opened > 2:
            os.close(opened)
    os.execvpe(request["argv"][0], request["argv"], request["env"])


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Fork and exec; with `pid` that very PID, given by ns_last_pid, and later ones go on where they were."""
    wanted, before = request.get("pid"), last_pid()
    if wanted:
        set_last_pid(wanted - 1)
    child = os.fork()
    if wanted and child:
        set_last_pid(before)
    if child == 0:
        try:
            become(request)
        finally:
            os._exit(127)
    return {"pid": child}


def reap(statuses: dict[int, int]) -> None:
    """Collect every dead child, ours or adopted."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        statuses[pid] = os.waitstatus_to_exitcode(status)


def serve(control: socket.socket) -> None:
    """Answer one JSON line per request until the other side closes."""
    statuses: dict[int, int] = {}
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    signal.set_wakeup_fd(wake_write.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(wake_read, selectors.EVENT_READ)
    selector.register(control, selectors.EVENT_READ)
    lines = control.makefile("rwb", buffering=0)
    lines.write(b'{"ready": true}\n')
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if wake_read in ready:
            wake_read.recv(4096)
        reap(statuses)
        if control in ready:
            line = lines.readline()
            if not line:
                return
            request = json.loads(line)
            answer = start(request) if request["do"] == "start" else {"status": statuses.get(request["pid"])}
            lines.write(json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Unshare, fork PID 1 and wait for it: when we end, nothing of the host is left."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    spec = json.loads(control.makefile("rb", buffering=0).readline())
    os.setsid()
    check(LIBC.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET), "unshare")
    child = os.fork()
    if child:
        control.sendall(json.dumps({"init": child}).encode() + b"\n")
        control.close()
        os.waitpid(child, 0)
        return
    mount_host(spec)
    os.chdir("/")
    socket.sethostname(spec["name"])
    set_last_pid(spec["first_pid"] - 1)
    serve(control)


main()
