"""Our schema and our files against those of Debian's criu package, which is the judge of the format."""

import ast
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message import Message

from core.images import kinds
from core.images.codec import encode_file
from core.images.flags import VmaStatus
from core.images.kinds import Kind
from core.images.pagemap import PageFlags
from core.images.pb import core_pb2, files_pb2, inventory_pb2, pagemap_pb2
from core.images.pb.namespaces_pb2 import IpcMsg
from tests.requires import require, require_program
from tests.unit.images.samples import KINDS, chunked_ghost, file_name, sample_records

PYCRIU = Path("/usr/lib/python3/dist-packages/pycriu/images")
# Numbers that 3.17.1 does not have yet are checked for not being in its way; from here on they are ours.
OURS = 50000
# State of other processors, which we do not carry.
FOREIGN = re.compile(r"ti_(arm|aarch64|ppc64|s390|mips)|(ppc64|s390)_entry")
RENAMED = {"SHMEM_PAGEMAP": "PAGEMAP", "STATS_RESTORE": "STATS"}
OUR_KINDS = {"MQUEUE"}
UNKNOWN_TO_CRIT = {"BINFMT_MISC"}
THEIR_KINDS = [one for one in KINDS if one.name not in OUR_KINDS]
every_kind = pytest.mark.parametrize("kind", THEIR_KINDS, ids=lambda kind: kind.name)


@cache
def their_files() -> list[FileDescriptorProto]:
    """What their generated modules were made from. Importing these would take another protobuf runtime."""
    require(PYCRIU.is_dir(), "pycriu, of Debian's package python3-pycriu")
    files = []
    for path in sorted(PYCRIU.glob("*_pb2.py")):
        literal = re.search(r"AddSerializedFile\((b'(?:[^'\\]|\\.)*')\)", path.read_text(), re.DOTALL)
        assert literal is not None, f"{path}: generated in a form this test does not know"
        files.append(FileDescriptorProto.FromString(ast.literal_eval(literal[1])))
    return files


def their_messages() -> dict[str, DescriptorProto]:
    return {camel(message.name): message for file in their_files() for message in file.message_type}


def their_enums() -> dict[str, EnumDescriptorProto]:
    nested = [enum for file in their_files() for message in file.message_type for enum in message.enum_type]
    return {camel(enum.name): enum for enum in [*nested, *(enum for file in their_files() for enum in file.enum_type)]}


def camel(name: str) -> str:
    """user_x86_regs_entry → UserX86RegsEntry"""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def our_messages() -> dict[str, Descriptor]:
    """Every message type that can occur in a file of any kind."""
    found: dict[str, Descriptor] = {}
    waiting = [found_class.DESCRIPTOR for kind in KINDS for found_class in (kind.message, kind.message_class(0))]
    waiting.append(IpcMsg.DESCRIPTOR)  # part of a payload
    while waiting:
        descriptor = waiting.pop()
        if descriptor.name not in found:
            found[descriptor.name] = descriptor
            waiting += [field.message_type for field in descriptor.fields if field.message_type is not None]
    return found


def facts(field: FieldDescriptorProto) -> tuple[object, ...]:
    """All that the bytes depend on, and the name."""
    return (field.name, field.type, field.label, camel(field.type_name.rpartition(".")[2]), field.options.packed,
            field.default_value)  # fmt: skip


def proto_of(descriptor: Descriptor) -> DescriptorProto:
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    return proto


def test_every_field_they_have_is_the_same_with_us() -> None:
    theirs = their_messages()
    compared = 0
    for name, descriptor in our_messages().items():
        ours = {field.number: facts(field) for field in proto_of(descriptor).field}
        for field in theirs[name].field if name in theirs else []:
            if not FOREIGN.fullmatch(field.name):
                assert ours.get(field.number) == facts(field), f"{name}.{field.name} = {field.number}"
                compared += 1
    assert compared > 550


def test_a_message_they_lack_belongs_to_a_later_release_or_is_ours_alone() -> None:
    theirs = their_messages()
    assert {name for name in our_messages() if name not in theirs} == {
        "DumpedTask",  # ours
        "GhostXattr",  # ours
        "MqueueEntry",  # ours, and so are its messages and files
        "MqueueFileEntry",
        "MqueueMessage",
        "PidfdEntry",
        "PluginsEntry",
        "SkUcredEntry",
        "TcpOptsEntry",
        "SemUndoEntry",  # ours
        "SocketOption",  # ours
        "XsaveComponent",  # ours
        "UserX86CetEntry",
    }


def test_field_they_lack_is_optional_and_ours_have_high_numbers() -> None:
    theirs = their_messages()
    for name, descriptor in our_messages().items():
        if name in theirs:
            known = {field.number for field in theirs[name].field}
            added = [field for field in descriptor.fields if field.number not in known]
            assert not any(field.is_required for field in added), name
            assert all(field.number <= 128 or field.number >= OURS for field in added), name


def test_every_enum_they_have_is_the_same_with_us() -> None:
    theirs = their_enums()
    enums = [field.enum_type for message in our_messages().values() for field in message.fields]
    compared = 0
    for enum in {enum.full_name: enum for enum in enums if enum is not None}.values():
        ours = {value.number: value.name.removeprefix("SECCOMP_").lower() for value in enum.values}
        for value in theirs[enum.name].value:
            assert ours.get(value.number) == value.name.lower(), f"{enum.name}: {value.name}"
            compared += 1
    assert compared > 40


def test_every_message_of_theirs_that_we_leave_out_is_of_another_machine_or_module() -> None:
    left_out = their_messages().keys() - our_messages().keys()
    rest = {name for name in left_out if not re.search("Aarch64|Arm|Ppc64|S390|Mips|ImgStreamer", name)}
    assert rest == {"AaPolicy", "AaNamespace", "ApparmorEntry", "CRIUOpts"}


def test_a_kind_of_ours_is_none_of_theirs() -> None:
    require((PYCRIU / "magic.py").exists(), "pycriu, of Debian's package python3-pycriu")
    magics = re.findall(r"by_name\['\w+'\] = (\d+)", (PYCRIU / "magic.py").read_text())
    assert {name for name in OUR_KINDS if str(kinds.KINDS[name].magic) not in magics} == OUR_KINDS


def test_numbers_of_later_releases() -> None:
    """Facts that no package here can confirm, in one place."""
    assert files_pb2.FdTypes.PIDFD == 20
    assert files_pb2.FileEntry.PIDFD_FIELD_NUMBER == 22
    assert core_pb2.TaskCoreEntry.STOP_SIGNO_FIELD_NUMBER == 21
    assert core_pb2.TaskCoreEntry.MEMBARRIER_REGISTRATION_MASK_FIELD_NUMBER == 22
    assert core_pb2.ThreadCoreEntry.CG_SET_FIELD_NUMBER == 16
    assert inventory_pb2.InventoryEntry.DUMP_CRIU_RUN_ID_FIELD_NUMBER == 13
    assert pagemap_pb2.PagemapEntry.WIDE_NR_PAGES_FIELD_NUMBER == 5


@every_kind
def test_magic_is_theirs(kind: Kind[Message]) -> None:
    require((PYCRIU / "magic.py").exists(), "pycriu, of Debian's package python3-pycriu")
    magics = dict(re.findall(r"by_name\['(\w+)'\] = (\d+)", (PYCRIU / "magic.py").read_text()))
    assert kind.magic == int(magics[RENAMED.get(kind.name, kind.name)])
    assert int(magics["IMG_COMMON"]) == kinds.COMMON_MAGIC
    assert int(magics["IMG_SERVICE"]) == kinds.SERVICE_MAGIC


@every_kind
@pytest.mark.parametrize("optional", [True, False], ids=["full", "bare"])
def test_crit_decodes_every_kind_we_write(kind: Kind[Message], optional: bool, tmp_path: Path) -> None:
    path = tmp_path / file_name(kind)
    records = sample_records(kind, optional=optional)
    path.write_bytes(encode_file(kind, path.name, records))
    answer = run_crit(path)
    if kind.name in UNKNOWN_TO_CRIT:
        assert "No handler found" in answer.stderr
        return
    assert answer.returncode == 0, answer.stderr
    decoded = json.loads(answer.stdout)
    assert decoded["magic"] == RENAMED.get(kind.name, kind.name)
    assert len(decoded["entries"]) == len(records)
    for record, entry in zip(records, decoded["entries"], strict=True):
        assert_same_numbers(record.message, entry)


def test_crit_decodes_a_ghost_file_with_chunks(tmp_path: Path) -> None:
    path = tmp_path / "ghost-file-1.img"
    path.write_bytes(encode_file(kinds.GHOST_FILE, path.name, chunked_ghost()))
    decoded = json.loads(run_crit(path).stdout)
    assert [entry.get("extra") for entry in decoded["entries"]] == [None, "QUJDREU=\n", "RkdISUo=\n"]


def run_crit(path: Path) -> subprocess.CompletedProcess[str]:
    command = [require_program("crit"), "decode", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def assert_same_numbers(message: Message, entry: dict[str, object]) -> None:
    """Plain numbers of the message are in the JSON under the same name; the rest crit shows in forms of its own."""
    for field, value in message.ListFields():
        plain = field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
        if plain and not field.is_repeated and isinstance(entry.get(field.name), int):
            assert entry[field.name] == value, field.full_name


def test_numbers_in_plain_fields_are_theirs() -> None:
    source = PYCRIU / "pb2dict.py"
    require(source.exists(), "pycriu, of Debian's package python3-pycriu")
    names = {name: 1 << int(shift) for name, shift in re.findall(r"\('(\w+)', 1 << (\d+)\)", source.read_text())}
    for status in VmaStatus:
        theirs = names.get(f"VMA_AREA_{status.name}", names.get(f"VMA_{status.name}"))
        assert theirs in (status, None if status >= VmaStatus.MEMFD else status)
    assert [names[f"PE_{name}"] for name in ("PARENT", "LAZY", "PRESENT")] == list(PageFlags)
