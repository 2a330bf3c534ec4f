# An interpreter keeps its file objects: positions, text decoding half way, and what is buffered but not yet written.

import hashlib
import zlib

from check import expect, program

LINES = [f"line {number} – höher\n" for number in range(5000)]

with program() as check:
    check.path("text").write_text("".join(LINES), encoding="utf-8")
    packed = zlib.compress("".join(LINES).encode())
    check.path("packed").write_bytes(packed)

    text = check.path("text").open(encoding="utf-8")
    read_before = [text.readline() for _ in range(1234)]
    log = check.path("log").open("a", buffering=1 << 16)
    log.write("buffered before\n")
    binary = check.path("packed").open("rb", buffering=0)
    inflate, digest = zlib.decompressobj(), hashlib.sha256()
    half = inflate.decompress(binary.read(len(packed) // 2))
    digest.update(half)

    check.ready_and_wait()

    expect(check.path("log").read_text(), "")
    log.write("after\n")
    log.close()
    expect(check.path("log").read_text(), "buffered before\nafter\n")
    expect(read_before + text.readlines(), LINES)
    digest.update(inflate.decompress(binary.read()) + inflate.flush())
    expect(digest.hexdigest(), hashlib.sha256("".join(LINES).encode()).hexdigest())
    text.close()
    binary.close()
