"""What the demo puts into redis, and how it proves afterwards that it is all there.

Every key and value follows from its number, so that the proof needs no second copy. Also a script, run inside a test
host: `python -m demo.workload fill HOST`, `python -m demo.workload verify HOST NUMBERED`.
"""

import hashlib
import random
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

PORT = 6379
BLOCK_BYTES = 64 * 1024
BLOCKS = 512 * 1024 * 1024 // BLOCK_BYTES
BATCH = 32
WORDS = b"one process moves from host to host and nobody who talks to it needs to know ".split()


def block(number: int) -> bytes:
    """Initial value: of four in a row two are random bytes, one is text, one is half empty."""
    source = random.Random(number)
    match number % 4:
        case 0 | 1:
            return source.randbytes(BLOCK_BYTES)
        case 2:
            return (b" ".join(source.choices(WORDS, k=2048)) * 16)[:BLOCK_BYTES]
        case _:
            return source.randbytes(BLOCK_BYTES // 2) + bytes(BLOCK_BYTES // 2)


def numbered(number: int) -> bytes:
    """Value of the write with this number."""
    return hashlib.sha256(str(number).encode()).hexdigest().encode() * 4


def command(*words: bytes) -> bytes:
    """A request in redis's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def read_reply(stream: BinaryIO) -> bytes | None:
    """A status or bulk reply; None for "no such key"; ConnectionError at the end or on an error reply."""
    line = stream.readline()
    if line[:1] == b"+":
        return line[1:-2]
    if line[:1] != b"$":
        raise ConnectionError(line.decode() or "closed")
    size = int(line[1:])
    return None if size < 0 else stream.read(size + 2)[:-2]


def ask_all(host: str, requests: Iterable[bytes]) -> Iterator[bytes | None]:
    """Replies to `requests`, sent in batches over one connection."""
    with socket.create_connection((host, PORT), timeout=20) as connection, connection.makefile("rb") as stream:
        source = iter(requests)
        while batch := [request for _, request in zip(range(BATCH), source, strict=False)]:
            connection.sendall(b"".join(batch))
            for _ in batch:
                yield read_reply(stream)


def fill(host: str) -> None:
    """Write every block."""
    requests = (command(b"SET", b"block:%d" % number, block(number)) for number in range(BLOCKS))
    bad = sum(reply != b"OK" for reply in ask_all(host, requests))
    if bad:
        sys.exit(f"{bad} of {BLOCKS} blocks were not taken")


def wrong_numbers(host: str, prefix: bytes, count: int, value: Callable[[int], bytes]) -> list[int]:
    """Numbers below `count` whose value over there is missing or differs."""
    requests = (command(b"GET", b"%b:%d" % (prefix, number)) for number in range(count))
    return [number for number, reply in enumerate(ask_all(host, requests)) if reply != value(number)]


def verify(host: str, acknowledged: int) -> None:
    """Compare everything; exit 1 naming what is wrong."""
    blocks = wrong_numbers(host, b"block", BLOCKS, block)
    writes = wrong_numbers(host, b"write", acknowledged, numbered)
    if blocks or writes:
        sys.exit(f"lost or wrong: blocks {blocks[:10]} ({len(blocks)}), writes {writes[:10]} ({len(writes)})")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fill", host]:
            fill(host)
        case ["verify", host, acknowledged]:
            verify(host, int(acknowledged))
        case other:
            sys.exit(f"demo.workload: {other}: unknown")
