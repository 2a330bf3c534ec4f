"""init → wait → check → pass, for programs in Python; check.h is the same for C."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

NAP_S = 0.02
PATIENCE_NAPS = 600 * 50  # ten minutes: an orphan ends by itself


class Check:
    """The three files of a program: it writes `ready` and `result`, somebody else writes `go`."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return Path(self.directory, name)

    def publish(self, name: str, text: str) -> None:
        temporary = self.path(f".{name}.{threading.get_native_id()}")
        temporary.write_text(text)
        os.replace(temporary, self.path(name))

    def ready(self) -> None:
        self.publish("ready", f"{os.getpid()}\n")

    def go(self) -> bool:
        return os.path.exists(os.path.join(self.directory, "go"))

    def wait(self) -> None:
        for _ in range(PATIENCE_NAPS):
            if self.go():
                return
            time.sleep(NAP_S)
        raise TimeoutError("no go came")

    def ready_and_wait(self) -> None:
        self.ready()
        self.wait()

    def fail(self, error: BaseException) -> None:
        trace, line = error.__traceback__, 0
        while trace:
            line, trace = trace.tb_lineno, trace.tb_next
        self.publish("result", f"FAIL: {os.path.basename(sys.argv[0])}:{line}: {error!r}")
        os._exit(1)


def expect(actual: object, expected: object) -> None:
    """Fail, showing both, unless they are equal."""
    if actual != expected:
        raise AssertionError(f"{actual!r}, not {expected!r}")


@contextlib.contextmanager
def program() -> Iterator[Check]:
    """PASS when the body ends, FAIL when it or any thread raises."""
    check = Check(sys.argv[1])
    threading.excepthook = lambda raised: check.fail(raised.exc_value or RuntimeError("thread"))
    try:
        yield check
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the result
        check.fail(error)
    check.publish("result", "PASS")
