"""What pre-copy costs: a scan per GiB with nothing and with a tenth written, how much slower a writer and redis get
while rounds go on at the default pace, each beside itself undisturbed in the same run."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from core import DumpOptions, LiveSource
from core.kernel import process_vm
from migrate.convergence import MIN_ROUND_S
from migrate.pagesrv.sender import PageSender
from tests.bench.sheet import Scale, Sheet
from tests.bench.target import Target, started
from tests.program_build import start_here
from tests.roundtrip.targets import attached
from tests.waiting import wait_until

PAGE = 4096
VALUE_BYTES = "1000"


def measure(scale: Scale, sheet: Sheet) -> None:
    """Scans first, then the writer, then redis."""
    _scans(scale, sheet)
    for _ in range(scale.runs):
        with started("writer", str(scale.live_mib), "0") as target:
            before = _rate(target, scale)
            with attached(target.pid, DumpOptions()) as source, _rounds(source):
                during = _rate(target, scale)
        sheet.ratio("a writer that never rests: undisturbed / during rounds", before, during)
    with _redis() as (pid, place):
        _benchmark(place, scale)  # fills it
        for _ in range(scale.runs):
            before = _benchmark(place, scale)
            with attached(pid, DumpOptions()) as source, _rounds(source):
                during = _benchmark(place, scale)
            sheet.add("redis-benchmark SET, undisturbed", "1/s", before)
            sheet.ratio("redis-benchmark SET: undisturbed / during rounds", before, during)


def _scans(scale: Scale, sheet: Sheet) -> None:
    mib = max(scale.image_mib)
    with started("memory", str(mib)) as target, attached(target.pid, DumpOptions()) as source:
        source.scan()
        for _ in range(max(3, scale.runs)):
            sheet.ms("scan per GiB, idle", _scan_s(source) * 1024 / mib)
            _write_a_tenth(target, mib)
            sheet.ms("scan per GiB, a tenth written", _scan_s(source) * 1024 / mib)


def _scan_s(source: LiveSource) -> float:
    began = time.monotonic()
    source.scan()
    return time.monotonic() - began


def _write_a_tenth(target: Target, mib: int) -> None:
    memory = process_vm.open_mem(target.pid, write=True)
    try:
        for at in range(0, mib << 20, 10 * PAGE):
            os.pwrite(memory, b"x", target.address + at)
    finally:
        os.close(memory)


def _rate(target: Target, scale: Scale) -> float:
    """Pages it writes in a second."""
    began, counted = time.monotonic(), target.written
    wait_until(lambda: time.monotonic() - began > scale.rounds * MIN_ROUND_S, "the time is over", deadline_s=60)
    return (target.written - counted) / (time.monotonic() - began)


@contextmanager
def _rounds(source: LiveSource) -> Iterator[None]:
    """Rounds at the default pace, their pages to nowhere, for the time of the block."""
    over = threading.Event()

    def run() -> None:
        number = 0
        with open("/dev/null", "wb") as nowhere:
            sender = PageSender(nowhere.fileno(), "none")
            while not over.is_set():
                began, number = time.monotonic(), number + 1
                source.scan()
                for process in source.processes.values():
                    missing = sender.send_round(
                        number, process.own_pid, process.page_reader(1), process.pending
                    ).missing
                    process.was_sent(missing)
                over.wait(max(0.0, MIN_ROUND_S - (time.monotonic() - began)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _redis() -> Iterator[tuple[int, str]]:
    """Its PID and its socket."""
    with tempfile.TemporaryDirectory(prefix="migrate-bench-") as folder:
        place = f"{folder}/socket"
        options = ["--port", "0", "--unixsocket", place, "--save", "", "--appendonly", "no", "--dir", folder]
        server = start_here(["redis-server", *options])
        try:
            wait_until(lambda: _answers(place), "redis answers", deadline_s=60)
            yield server.pid, place
        finally:
            server.kill()
            server.wait(timeout=60)


def _answers(place: str) -> bool:
    return subprocess.run(["redis-cli", "-s", place, "ping"], capture_output=True).returncode == 0


def _benchmark(place: str, scale: Scale) -> float:
    """Requests per second of as many SETs as take some rounds."""
    count = str(scale.rounds * 40_000 if scale.rounds > 2 else 5_000)
    command = ["redis-benchmark", "-s", place, "-t", "set", "-r", "100000", "-d", VALUE_BYTES, "-n", count, "-c", "8"]
    done = subprocess.run([*command, "--csv"], capture_output=True, text=True, check=True, timeout=300)
    return float(done.stdout.splitlines()[-1].split(",")[1].strip('"'))
