import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ImageError
from core.images import kinds
from core.images.codec import Record, Unparsed, decode_file, encode_file
from core.images.kinds import Kind, parse_file_name
from core.images.pb.core_pb2 import CoreEntry, TaskCoreEntry
from core.images.pb.descriptors_pb2 import PipeDataEntry
from core.images.pb.pstree_pb2 import PstreeEntry
from tests.unit.images.samples import KINDS, chunked_ghost, file_name, sample_records

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@every_kind
@pytest.mark.parametrize("optional", [True, False], ids=["full", "bare"])
def test_every_kind_survives_the_round_trip(kind: Kind[Message], optional: bool) -> None:
    records = sample_records(kind, optional=optional)
    content = encode_file(kind, "x", records)
    assert decode_file(kind, "x", content) == records
    assert encode_file(kind, "x", decode_file(kind, "x", content)) == content


def test_ghost_file_with_chunks_survives_the_round_trip() -> None:
    records = chunked_ghost()
    assert decode_file(kinds.GHOST_FILE, "x", encode_file(kinds.GHOST_FILE, "x", records)) == records


@every_kind
def test_file_name_leads_back_to_its_kind(kind: Kind[Message]) -> None:
    found, id = parse_file_name(file_name(kind))
    assert found is kind
    assert kind.file_name(id) == file_name(kind)


@pytest.mark.parametrize(
    "name",
    ["", "core.img", "core-.img", "core-x.img", "core-07.img", "core--1.img", "files-1.img", "ghost-file-A.img",
     "pages-1.img", "../core-1.img", "core-1.img\n", "core-" + "9" * 5000 + ".img", "route-9.img"],
)  # fmt: skip
def test_strange_file_name_is_refused(name: str) -> None:
    with pytest.raises(ImageError):
        parse_file_name(name)


@every_kind
def test_cut_anywhere_is_an_image_error_or_a_shorter_file(kind: Kind[Message]) -> None:
    content = encode_file(kind, "x", sample_records(kind))
    for length in range(len(content)):
        try:
            records = decode_file(kind, "x", content[:length])
        except ImageError:
            continue
        # Only between two messages, or where a ghost file's content runs to the end of the file.
        assert encode_file(kind, "x", records) == content[:length]
        assert kind is kinds.GHOST_FILE or not kind.single


@every_kind
def test_flipped_bit_is_an_image_error_or_other_content(kind: Kind[Message]) -> None:
    content = encode_file(kind, "x", sample_records(kind))
    for position in range(len(content)):
        for bit in (0, 3, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            try:
                records = decode_file(kind, "x", bytes(damaged))
            except ImageError:
                continue
            assert position >= len(kind.header), "damage to the magic went unnoticed"
            str(records)  # every field can be looked at


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(KINDS), tail=st.binary(max_size=80))
def test_noise_behind_the_magic_is_an_image_error_or_a_file(kind: Kind[Message], tail: bytes) -> None:
    try:
        decode_file(kind, "x", kind.header + tail)
    except ImageError as error:
        assert error.path == "x"


def test_wrong_magic_is_named() -> None:
    content = encode_file(kinds.PSTREE, "x", [])
    with pytest.raises(ImageError, match="wrong magic"):
        decode_file(kinds.FILES, "x", content)


def test_size_beyond_the_file_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(ImageError, match="ends at byte 4294967307 of 14"):
        decode_file(kinds.PSTREE, "x", kinds.PSTREE.header + b"\xff\xff\xff\xff\0\0")


def test_missing_required_field_is_refused_both_ways() -> None:
    entry = PstreeEntry(pid=1)
    with pytest.raises(ImageError, match="ppid"):
        encode_file(kinds.PSTREE, "x", [Record(entry)])
    body = entry.SerializePartialToString()
    with pytest.raises(ImageError, match="required"):
        decode_file(kinds.PSTREE, "x", kinds.PSTREE.header + len(body).to_bytes(4, "little") + body)


def test_text_that_is_not_utf8_is_refused_at_any_depth() -> None:
    (record,) = sample_records(kinds.CORE)
    assert isinstance(record.message.tc, TaskCoreEntry)
    record.message.tc.comm = "MARK"
    content = encode_file(kinds.CORE, "x", [record]).replace(b"MARK", b"M\xffRK")
    with pytest.raises(ImageError, match=r"TaskCoreEntry\.comm is not UTF-8"):
        decode_file(kinds.CORE, "x", content)


def test_payload_that_does_not_fit_its_message_is_refused() -> None:
    with pytest.raises(ImageError, match="announces 9 bytes"):
        encode_file(kinds.PIPES_DATA, "x", [Record(PipeDataEntry(pipe_id=1, bytes=9), b"short")])


def test_two_messages_where_one_belongs_are_refused() -> None:
    with pytest.raises(ImageError, match="holds 2 messages"):
        decode_file(kinds.CORE, "x", encode_file(kinds.CORE, "x", sample_records(kinds.CORE) * 2))


def test_fields_we_do_not_know_are_kept() -> None:
    body = PstreeEntry(pid=1, ppid=0, pgid=1, sid=1).SerializeToString() + b"\xfa\xff\x03\x03new"
    content = kinds.PSTREE.header + len(body).to_bytes(4, "little") + body
    assert encode_file(kinds.PSTREE, "x", decode_file(kinds.PSTREE, "x", content)) == content


def test_an_encoded_record_is_parsed_when_it_is_asked_for_and_keeps_what_is_changed_then() -> None:
    encoded = CoreEntry(mtype=CoreEntry.X86_64).SerializeToString()
    record = Unparsed(CoreEntry, encoded)
    assert (
        decode_file(kinds.CORE, "core-1.img", encode_file(kinds.CORE, "core-1.img", [record]))[0].message
        == record.message
    )
    record.message.thread_core.futex_rla = record.message.thread_core.futex_rla_len = 7
    [read] = decode_file(kinds.CORE, "core-1.img", encode_file(kinds.CORE, "core-1.img", [record]))
    assert read.message.thread_core.futex_rla == 7
