"""What deploy/build-packages.sh makes can be installed where nothing else is, runs there, and goes again."""

import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.host import REPOSITORY
from tests.package.debian_root import make_root
from tests.requires import require_program, require_root

pytestmark = pytest.mark.timeout(900)
IN_ROOT = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is handed out."""
    require_program("dpkg-deb")
    out = Path(os.environ["PACKAGES"]).absolute() if "PACKAGES" in os.environ else tmp_path_factory.mktemp("built")
    for old in out.glob("*.deb"):
        old.unlink()
    output(REPOSITORY / "deploy/build-packages.sh", out)
    return out


@pytest.fixture(scope="module")
def root(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with the package's dependencies alone, and the package."""
    require_root()
    made = tmp_path_factory.mktemp("root")
    [package] = built.glob("*.deb")
    needs = output("dpkg-deb", "-f", package, "Depends")
    names = make_root(made, [part.split()[0].strip(",") for part in needs.split(", ")])
    assert "python3-venv" not in names and "gcc" not in names
    (made / "tmp" / package.name).write_bytes(package.read_bytes())
    inside(made, "dpkg", "--force-unsafe-io", "-i", f"/tmp/{package.name}")
    yield made


def output(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def inside(root: Path, *argv: str) -> str:
    """Run in the root, as PID 1 of its own namespace, with no network."""
    return output("unshare", "--mount", "--pid", "--fork", "--net", "sh", "-c", IN_ROOT, root, *argv)


def test_the_package_is_installed_and_runs_in_a_root_that_has_only_its_dependencies(root: Path) -> None:
    assert "install ok installed" in inside(root, "dpkg-query", "-s", "migrate")
    assert inside(root, "migrate", "--version").startswith("migrate ")
    assert "clone3_set_tid" in inside(root, "migrate", "features")
    assert inside(root, "/usr/lib/migrate/bin/python3", "-m", "migrate.cli", "agent", "facts").startswith("{")
    assert (root / "usr/share/man/man8/migrate.8.gz").stat().st_size > 1000
    assert inside(root, "dpkg", "--verify", "migrate") == ""


def test_a_process_is_dumped_and_restored_by_the_package(root: Path) -> None:
    script = (
        "setsid sleep 1000 </dev/null >/dev/null 2>&1 & pid=$!; mkdir /tmp/images;"
        "migrate dump -t $pid -D /tmp/images && migrate restore -D /tmp/images -d &&"
        "kill -0 $pid && kill $pid && echo yes"
    )
    assert inside(root, "sh", "-c", script).endswith("yes\n")


def test_the_server_starts_from_the_package(root: Path) -> None:
    script = (
        "migrate serve --listen 127.0.0.1:0 --database sqlite:////tmp/x.db --inventory /etc/migrate/inventory.toml"
        " --hooks /etc/migrate/hooks >/tmp/said & pid=$!; while ! grep -q http:// /tmp/said; do kill -0 $pid || exit 1;"
        " done; kill $pid; cat /tmp/said"
    )
    assert "http://127.0.0.1:" in inside(root, "sh", "-c", script)


def test_the_wheel_says_what_it_was_built_for_and_has_the_native_parts(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    assert wheel.name.endswith(f"-none-linux_{os.uname().machine}.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"core/native/stem", "migrate/install/install.sh"} <= set(names)
    assert any(name.startswith("core/native/_kernel") for name in names)


def test_zz_the_package_goes_and_leaves_nothing_of_its_own(root: Path) -> None:
    inside(root, "dpkg", "--purge", "migrate")
    assert not (root / "usr/lib/migrate").exists() and not (root / "usr/bin/migrate").is_symlink()
