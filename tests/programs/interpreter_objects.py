# Generators, dictionaries, big integers and random states of an interpreter are verified all the time.
# tags: live

import random
from collections import deque
from collections.abc import Iterator

from check import Check, expect, program


def primes() -> Iterator[int]:
    """A chain of nested generators, one frame for each prime met."""
    numbers: Iterator[int] = iter(range(2, 10**9))
    while True:
        prime = next(numbers)
        yield prime
        numbers = filter(prime.__rmod__, numbers)


def verify_round(check: Check, table: dict[int, str], recent: "deque[int]", shadow: random.Random) -> None:
    """One round of changes whose outcome is known."""
    number = shadow.getrandbits(64)
    table[number % 5000] = str(number % 5000)
    recent.append(number)
    expect(all(text == str(key) for key, text in table.items()), True)
    expect(len(recent) <= recent.maxlen if recent.maxlen else False, True)
    expect(
        pow(3, number, 2**127 - 1),
        pow(pow(3, number // 2, 2**127 - 1), 2, 2**127 - 1) * 3 ** (number % 2) % (2**127 - 1),
    )


with program() as check:
    sieve = primes()
    expect([next(sieve) for _ in range(100)][-1], 541)
    source, shadow = random.Random(7), random.Random(7)
    table: dict[int, str] = {}
    recent: "deque[int]" = deque(maxlen=100)
    check.ready()
    rounds = 0
    while not check.go() or rounds < 10:
        verify_round(check, table, recent, shadow)
        rounds += 1
    expect([source.getrandbits(64) for _ in range(rounds)][-len(recent) :], list(recent))
    expect([next(sieve) for _ in range(100)][-1], 1223)
