"""install.sh refuses by name what cannot work, and leaves nothing of what did not."""

import io
import os
import platform
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from migrate.install.bootstrap import parse_refusals
from migrate.install.bundle import INSTALLER, Bundle, collect_bundle

FACTS = {"id": "1-abc", "python": "3.11", "machine": platform.machine(), "kilobytes": "100"}
PROGRAM = "import sys; sys.stdout.write('migrate 1\\n')\ndef main(): pass\n"


def install(
    folder: Path, *words: str, path: str = "/usr/bin:/bin", archive: Path | str = "-", **facts: str
) -> subprocess.CompletedProcess[str]:
    manifest = "".join(f"{name}={value}\n" for name, value in {**FACTS, **facts}.items())
    places = ["--prefix", str(folder / "opt/migrate"), "--bin", str(folder / "bin")]
    argv = ["/bin/sh", str(INSTALLER), *places, *words, "--manifest", manifest, str(archive)]
    return subprocess.run(argv, capture_output=True, text=True, env={"PATH": path}, check=False, timeout=100)


def pack(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "made.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"lib/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def whole(folder: Path) -> Path:
    """Has all that install.sh looks at."""
    return pack(
        folder,
        {"migrate/__init__.py": "", "migrate/cli/__init__.py": PROGRAM, "migrate/cli/serve.py": "", "core.py": ""},
    )


def fakes(folder: Path, programs: dict[str, str], leave_out: Sequence[str] = ()) -> str:
    """A PATH with `programs` as shell scripts and everything else of /usr/bin but `leave_out`."""
    place = folder / "path"
    place.mkdir()
    for entry in os.scandir("/usr/bin"):
        if entry.name not in (*programs, *leave_out):
            (place / entry.name).symlink_to(entry.path)
    for name, text in programs.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    return str(place)


def test_an_archive_becomes_a_command_once(tmp_path: Path) -> None:
    archive = whole(tmp_path)
    assert install(tmp_path, "--check", archive=archive).stdout.endswith("is to be installed\n")
    first = install(tmp_path, archive=archive)
    assert first.returncode == 0, first.stderr
    link = tmp_path / "bin/migrate"
    assert subprocess.run([link], capture_output=True, text=True, check=True).stdout == "migrate 1\n"
    again = install(tmp_path, archive=archive)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert "nothing to do" in install(tmp_path, "--check", archive=archive).stdout
    for number in ("2-abc", "3-abc"):
        assert install(tmp_path, archive=archive, id=number).returncode == 0
    kept = sorted(path.name for path in (tmp_path / "opt/migrate").iterdir() if path.name != ".lock")
    assert kept == ["2-abc", "3-abc"] and "/3-abc/" in os.readlink(link)


@pytest.mark.parametrize("files", [{"migrate/__init__.py": ""}, {"core.py": "raise ImportError('no such libc')"}])
def test_what_does_not_run_there_is_taken_away_again(tmp_path: Path, files: dict[str, str]) -> None:
    done = install(tmp_path, archive=pack(tmp_path, files))
    assert done.returncode == 1 and "does not run here: " in done.stderr
    assert [path.name for path in (tmp_path / "opt/migrate").iterdir()] == [".lock"]
    assert not (tmp_path / "bin/migrate").is_symlink()


def test_an_archive_that_breaks_off_leaves_the_one_before(tmp_path: Path) -> None:
    archive = whole(tmp_path)
    assert install(tmp_path, archive=archive).returncode == 0
    archive.write_bytes(archive.read_bytes()[:100])
    assert install(tmp_path, archive=archive, id="2-abc").returncode != 0
    assert (
        subprocess.run([tmp_path / "bin/migrate"], capture_output=True, text=True, check=True).stdout == "migrate 1\n"
    )
    assert not (tmp_path / "opt/migrate/2-abc").exists()


def test_every_reason_to_refuse_is_named_at_once(tmp_path: Path) -> None:
    lacks = 'case "$2" in *venv*) echo "No module named venv" >&2; exit 1 ;; esac; exec /usr/bin/python3.11 "$@"'
    path = fakes(tmp_path, {"uname": "echo aarch64", "python3.11": lacks})
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/migrate").write_text("another program")
    done = install(tmp_path, "--check", path=path, kilobytes=str(1 << 50))
    assert done.returncode == 3
    found = {one.subject: one for one in parse_refusals(done.stderr.splitlines())}
    assert set(found) == {
        "architecture aarch64", f"{path}/python3.11", str(tmp_path / "opt/migrate"), str(tmp_path / "bin/migrate"),
    }  # fmt: skip
    assert all(one.hint for one in found.values())
    assert "No module named venv" in found[f"{path}/python3.11"].reason
    assert "disk is full" in found[str(tmp_path / "opt/migrate")].reason
    assert not (tmp_path / "opt").exists() and (tmp_path / "bin/migrate").read_text() == "another program"


def test_a_host_without_the_right_python_or_tar_is_refused_by_name(tmp_path: Path) -> None:
    done = install(tmp_path, python="3.99")
    assert done.returncode == 3 and "refused: python3.99: is not there" in done.stderr
    done = install(tmp_path, path=fakes(tmp_path, {}, leave_out=["tar"]))
    assert done.returncode == 3 and "refused: program tar: is not there" in done.stderr


def test_the_bundle_is_what_runs_here_and_nothing_of_the_development() -> None:
    found = collect_bundle()
    assert {"core/native/stem", "migrate/install/install.sh", "migrate/cli/commands.py"} <= set(found.files)
    assert any(name.startswith("asyncssh/") for name in found.files)
    for name in ("pytest", "mypy", "grpc_tools", "playwright"):
        assert not any(file.startswith(f"{name}/") for file in found.files)
    assert not any("__pycache__" in name or "/native/build/" in name for name in found.files)


def test_deploy_has_the_very_script_that_bootstrap_sends() -> None:
    assert (Path(__file__).resolve().parents[3] / "deploy/install.sh").resolve() == INSTALLER.resolve()


def test_the_same_files_make_the_same_archive_and_another_byte_another_id(tmp_path: Path) -> None:
    def archive(content: bytes) -> tuple[str, bytes]:
        bundle, out = Bundle("1", {"a/b.py": content}), io.BytesIO()
        bundle.write(out)
        return bundle.id, out.getvalue()

    assert archive(b"x") == archive(b"x")
    assert archive(b"x")[0] != archive(b"y")[0]
