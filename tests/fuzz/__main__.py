"""`python -m tests.fuzz TARGET [SECONDS]`: hostile input ends in an error of our own, never in another one, a hang, or
memory beyond the input's scale.

A finding stops the run and is written to build/fuzz; `python -m tests.fuzz TARGET FILE` shows it again.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["core", "migrate"]):
    from core import DumpOptions, RestoreOptions, crc32c, decode_stream, dump, encode_stream
    from core.errors import ImageError, MigrateError
    from core.images.codec import decode_file
    from core.images.store import ImageSet, read_directory
    from core.memory_plan import memory_plan
    from core.task_plan import compile_tree, tree_shapes
    from migrate.messages import decode, encode
    from migrate.pagesrv.frames import FRAME_VERSION, HEAD, MAGIC, RUN
    from migrate.pagesrv.receiver import PageReceiver

import contextlib

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from migrate.pb import control_pb2 as pb
from tests.roundtrip.targets import ready
from tests.unit.images.samples import KINDS, filled, sample_records

FOLDER = Path("build/fuzz")
SECONDS = 60
HANG_S = 10
MEMORY_MIB = 1024
LENGTH = 4096
PROGRAMS = ("tree_workers.c", "fd_table.c", "thread_ids.c", "epoll.c", "posix_timers.c")
EDGES = (0, 1, 2, 7, 0xFF, 0xFFF, 0x1000, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 47, (1 << 63) - 1)


def images(data: bytes) -> None:
    """A file of any kind: the first byte chooses which."""
    if data:
        kind = KINDS[data[0] % len(KINDS)]
        with contextlib.suppress(ImageError):
            str(decode_file(kind, "x", kind.header + data[1:]))


def stream(data: bytes) -> None:
    """Images as they travel."""
    with contextlib.suppress(ImageError):
        decode_stream(data)


def control(data: bytes) -> None:
    """A frame of the control connection."""
    with contextlib.suppress(MigrateError):
        str(decode(data))


class Nowhere:
    """Lands nothing."""

    def land(self, mm_id: int, runs: object, memory: object) -> None: ...

    def zero(self, mm_id: int, runs: object) -> None: ...

    def parent(self, mm_id: int, runs: object) -> None: ...

    def ids(self, dump_id: str, parent_id: str) -> None: ...


def framed(given: "atheris.FuzzedDataProvider") -> bytes:
    """A frame whose checksums are right and nothing else has to be."""
    run_list = b"".join(
        RUN.pack(given.ConsumeIntInRange(0, 1 << 20) << 12, given.ConsumeIntInRange(0, 1 << 10))
        for _ in range(given.ConsumeIntInRange(0, 4))
    )
    payload = given.ConsumeBytes(given.ConsumeIntInRange(0, 256))
    head = HEAD.pack(
        MAGIC, FRAME_VERSION, given.ConsumeIntInRange(0, 8), given.ConsumeIntInRange(0, 3), 0,
        given.ConsumeIntInRange(0, 9), given.ConsumeIntInRange(0, 2), given.ConsumeIntInRange(0, 5),
        given.ConsumeIntInRange(0, 1 << 24), len(payload), crc32c(payload, crc32c(run_list)), 0,
    )  # fmt: skip
    return head[:-4] + crc32c(head[:-4]).to_bytes(4, "little") + run_list + payload


def pages(data: bytes) -> None:
    """A page stream: frames, and then whatever there is."""
    given = atheris.FuzzedDataProvider(data)
    frames = [framed(given) for _ in range(given.ConsumeIntInRange(0, 3))]
    fd = os.memfd_create("pages")
    try:
        os.write(fd, b"".join(frames) + given.ConsumeBytes(LENGTH))
        os.lseek(fd, 0, os.SEEK_SET)
        PageReceiver(fd, Nowhere(), Nowhere()).run_until_round_end(1)
    except MigrateError:
        pass
    finally:
        os.close(fd)


class Plan:
    """Images of real programs in which fields say something else: they compile, or do not fit together."""

    def __init__(self) -> None:
        self._seeds: list[bytes] = []

    def prepare(self) -> None:
        """Dump the programs."""
        for name in PROGRAMS:
            with tempfile.TemporaryDirectory() as folder:
                images = Path(folder, "images")
                images.mkdir()
                with ready(name, Path(folder)) as run:
                    dump(run.pid, images, DumpOptions())
                self._seeds.append(encode_stream(read_directory(images)))

    def __call__(self, data: bytes) -> None:
        """Change some, and compile."""
        given = atheris.FuzzedDataProvider(data)
        found = decode_stream(self._seeds[given.ConsumeIntInRange(0, len(self._seeds) - 1)])
        for _ in range(given.ConsumeIntInRange(1, 3)):
            change(found, given)
        try:
            for shape in tree_shapes(found):
                if not shape.dead:
                    memory_plan(found, shape.pid)
            compile_tree(found, (1 << 41) - 1, RestoreOptions(tcp="close"))
        except MigrateError:
            pass


def change(found: ImageSet, given: "atheris.FuzzedDataProvider") -> None:
    """One field of one record."""
    records = [record.message for _, _, those in found for record in those]
    message = records[given.ConsumeIntInRange(0, len(records) - 1)]
    while True:
        field = message.DESCRIPTOR.fields[given.ConsumeIntInRange(0, len(message.DESCRIPTOR.fields) - 1)]
        if field.message_type is None or field.is_repeated:
            break
        message = getattr(message, field.name)
    if field.is_repeated:
        change_list(message, field, given)
    else:
        with contextlib.suppress(ValueError, TypeError):  # the field cannot say that
            setattr(message, field.name, value(field, given))


def change_list(message: Message, field: FieldDescriptor, given: "atheris.FuzzedDataProvider") -> None:
    """Shorter, longer or with another element."""
    items = getattr(message, field.name)
    if items and given.ConsumeBool():
        del items[given.ConsumeIntInRange(0, len(items) - 1)]
    elif field.message_type is not None:
        items.add()
    else:
        with contextlib.suppress(ValueError, TypeError):
            items.append(value(field, given))


def value(field: FieldDescriptor, given: "atheris.FuzzedDataProvider") -> object:
    """Any that the type has; edges more often."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return given.ConsumeUnicodeNoSurrogates(20)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return given.ConsumeBytes(20)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return given.ConsumeBool()
    return given.PickValueInList(list(EDGES)) if given.ConsumeBool() else given.ConsumeInt(8)


PLAN = Plan()
TARGETS: dict[str, Callable[[bytes], None]] = {
    "images": images, "stream": stream, "control": control, "pages": pages, "plan": PLAN,
}  # fmt: skip


def write_seeds(folder: Path) -> None:
    """Something of every kind to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(KINDS):
        for record in sample_records(kind):
            body = record.message.SerializePartialToString()
            content = bytes([number]) + len(body).to_bytes(4, "little") + body + record.payload
            (folder / f"kind-{number}").write_bytes(content[:LENGTH])
    for field in pb.Message.DESCRIPTOR.oneofs_by_name["body"].fields:
        (folder / field.name).write_bytes(encode(filled(field.message_type._concrete_class, depth=1))[:LENGTH])


def main() -> None:
    """Run one target."""
    name, what = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(SECONDS)
    corpus = FOLDER / f"{name}.corpus"
    write_seeds(corpus)
    if name == "plan":
        PLAN.prepare()
    options = [f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={LENGTH}", f"-artifact_prefix={FOLDER}/"]
    places = [what] if Path(what).is_file() else [f"-max_total_time={int(what)}", str(corpus)]
    atheris.Setup([sys.argv[0], *options, *places], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
