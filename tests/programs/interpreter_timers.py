# An interpreter's threading timers, queues and timed waits go on; none fires early, is lost or fires twice.
# tags: live

import queue
import threading
import time

from check import expect, program

INTERVAL_S = 0.02
stop = threading.Event()
numbers: "queue.Queue[int]" = queue.Queue(maxsize=3)
fired: list[float] = []


def tick(due: float) -> None:
    now = time.monotonic()
    if now < due:
        raise AssertionError(f"fired {due - now} s early")
    fired.append(now)
    if not stop.is_set():
        threading.Timer(INTERVAL_S, tick, [now + INTERVAL_S]).start()


def produce() -> None:
    number = 0
    while not stop.is_set():
        numbers.put(number)
        number += 1
    numbers.put(-1)


def consume() -> None:
    expected = 0
    while (number := numbers.get(timeout=60)) != -1:
        expect(number, expected)
        expected += 1
        if number % 50 == 0:
            stop.wait(0.001)


with program() as check:
    far = threading.Timer(3600, lambda: stop.set())
    far.start()
    workers = [threading.Thread(target=produce), threading.Thread(target=consume)]
    for worker in workers:
        worker.start()
    tick(time.monotonic())
    check.ready_and_wait()
    seen = len(fired)
    for _ in range(1000):
        if len(fired) >= seen + 2:  # they go on
            break
        time.sleep(INTERVAL_S)
    expect(len(fired) >= seen + 2, True)
    expect(far.is_alive(), True)
    expect(fired, sorted(fired))
    far.cancel()
    stop.set()
    for worker in workers:
        worker.join(20)
        expect(worker.is_alive(), False)
