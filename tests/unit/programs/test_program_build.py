"""Finding and building: what the first lines say, and when a program is compiled anew."""

from pathlib import Path
from statistics import median

import pytest

from tests import program_build
from tests.program_build import Program, Run, content_hash, discover_all, find, parse_program

PATH = Path("x.c")
ENDS_AT_ONCE = "// Ends at once.\nint main(void)\n{\n\treturn 3;\n}\n"


@pytest.fixture
def own_build_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program_build, "BUILD", tmp_path / "build")
    return tmp_path / "build"


def written(tmp_path: Path, text: str) -> Program:
    path = tmp_path / "small.c"
    path.write_text(text)
    return parse_program(path, text)


def test_metadata_is_parsed_from_the_first_lines_only() -> None:
    text = "// Claims this.\n// cflags: -static -O1\n// args: a 'b c'\n// tags: live\n#include <x>\n// later: no\n"
    program = parse_program(PATH, text)
    assert program == Program(
        PATH, "Claims this.", cflags=("-static", "-O1"), args=("a", "b c"), tags=frozenset({"live"})
    )


@pytest.mark.parametrize("text", ["", "int main(void)", "// tags: live\n", "# Not a comment in C.\n"])
def test_program_without_a_claim_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.c: its first line"):
        parse_program(PATH, text)


def test_unknown_requirement_is_taken_for_a_cpu_flag() -> None:
    program = parse_program(PATH, "// Claims this.\n// requires: root no-such-flag\n")
    assert program.cpu_lacks() == ["no-such-flag"]


def test_every_program_states_its_claim_as_a_sentence() -> None:
    assert [program.name for program in discover_all() if not program.claim.endswith(".")] == []


def test_programs_stay_small() -> None:
    lengths = {program.name: len(program.path.read_text().splitlines()) for program in discover_all()}
    assert median(lengths.values()) <= 60
    assert [name for name, lines in lengths.items() if lines > 200] == []


def test_hash_changes_with_an_included_file_and_with_a_flag(tmp_path: Path) -> None:
    program = written(tmp_path, '// Includes.\n#include "part.h"\n')
    (tmp_path / "part.h").write_text("1")
    first = content_hash(program.path, ["gcc"])
    (tmp_path / "part.h").write_text("2")
    second = content_hash(program.path, ["gcc"])
    assert len({first, second, content_hash(program.path, ["gcc", "-O1"])}) == 3


def test_program_is_compiled_once_until_its_text_changes(tmp_path: Path, own_build_directory: Path) -> None:
    first = Path(written(tmp_path, ENDS_AT_ONCE).build()[0])
    stamp = first.stat().st_mtime_ns
    assert Path(written(tmp_path, ENDS_AT_ONCE).build()[0]).stat().st_mtime_ns == stamp
    assert Path(written(tmp_path, ENDS_AT_ONCE + "\n").build()[0]) != first


def test_warning_is_an_error_with_the_compiler_s_words(tmp_path: Path, own_build_directory: Path) -> None:
    with pytest.raises(AssertionError, match="unused variable"):
        written(tmp_path, ENDS_AT_ONCE.replace("\treturn", "\tint x;\n\treturn")).build()
    assert list(own_build_directory.rglob("*small*")) == []


def test_program_that_ends_before_ready_is_told_with_its_exit_code(tmp_path: Path, own_build_directory: Path) -> None:
    with (
        written(tmp_path, ENDS_AT_ONCE).start(tmp_path / "d") as run,
        pytest.raises(AssertionError, match="ended with 3"),
    ):
        run.wait_ready()


def test_failure_while_preparing_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "d" / "file").mkdir(parents=True)
    with (
        find("file_position.c").start(tmp_path / "d") as run,
        pytest.raises(AssertionError, match=r"FAIL: .*Is a directory"),
    ):
        run.wait_ready()


def test_result_without_an_answer_is_an_error_naming_the_program(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"counter\.c result"):
        Run(find("counter.c"), tmp_path).result(deadline_s=0.02)


def test_too_long_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 100 characters"):
        find("counter.c").start(tmp_path / ("x" * 100))
