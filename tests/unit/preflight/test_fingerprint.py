"""Build ids and hashes, against tools that know."""

import hashlib
import struct
from pathlib import Path

from elftools.elf.elffile import ELFFile

from core.preflight.fingerprint import Fingerprints, parse_build_id, read_build_id, read_elf_class

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"


def note(kind: int, name: bytes, content: bytes) -> bytes:
    pad = bytes(-len(content) % 4)
    return struct.pack("<III", len(name), len(content), kind) + name + content + pad


def test_the_build_id_is_found_among_other_notes() -> None:
    notes = note(1, b"GNU\0", b"abcde") + note(3, b"XYZ\0", b"no") + note(3, b"GNU\0", b"\xab\xcd")
    assert parse_build_id(notes) == "abcd"
    assert parse_build_id(notes[:20]) == parse_build_id(b"") == ""


def test_our_reading_agrees_with_an_elf_library() -> None:
    with open(LIBC, "rb") as file:
        section = ELFFile(file).get_section_by_name(".note.gnu.build-id")
        expected = next(section.iter_notes())["n_desc"]
    assert read_build_id(LIBC) == expected


def test_other_files_have_no_build_id(tmp_path: Path) -> None:
    for content in (b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x02" + bytes(100)):
        (tmp_path / "file").write_bytes(content)
        assert read_build_id(str(tmp_path / "file")) == ""


def test_elf_classes(tmp_path: Path) -> None:
    (tmp_path / "32").write_bytes(b"\x7fELF\x01")
    (tmp_path / "text").write_bytes(b"#!/bin/sh")
    assert [read_elf_class(path) for path in (LIBC, str(tmp_path / "32"), str(tmp_path / "text"))] == [2, 1, 0]


def test_hashes_follow_the_content_and_leave_out_what_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    prints = Fingerprints()
    assert prints.sha256([str(path), str(tmp_path / "none")]) == {str(path): hashlib.sha256(b"one").digest()}
    path.write_bytes(b"other")
    assert prints.sha256([str(path)])[str(path)] == hashlib.sha256(b"other").digest()
