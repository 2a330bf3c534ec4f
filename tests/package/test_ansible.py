"""The Ansible role brings a bare host to take processes, or to coordinate, and changes nothing the second time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import make_hosts
from tests.hosts.host import REPOSITORY
from tests.package.booted import Booted, boot
from tests.requires import require_root
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
UNIT = "migrate-serve.service"


def playbook(folder: Path, group: str, **variables: str) -> list[str]:
    """The command that plays deploy/ansible/site.yml on the host it runs on, as one of `group`."""
    inventory = folder / "hosts.ini"
    inventory.write_text(f"[{group}]\nhost-a ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n")
    given = " ".join(f"{name}={value}" for name, value in variables.items())
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return [program, "-i", str(inventory), "-e", given, str(REPOSITORY / "deploy/ansible/site.yml")]


def test_the_role_installs_the_program_once(tmp_path: Path) -> None:
    require_root()
    archive = tmp_path / "migrate.tar.gz"
    with make_hosts("host-a", binds={str(tmp_path): str(tmp_path)}) as (host,):
        host.run(["migrate", "bundle", str(archive)], timeout_s=200)
        host.path("/run/bin/migrate").unlink()
        play = playbook(
            tmp_path, "movers", migrate_archive=str(archive), migrate_prefix="/srv/migrate", migrate_bin="/srv/bin"
        )
        first = host.run(play, timeout_s=300).stdout
        assert "failed=0" in first and "changed=3" in first, first
        assert host.run(["/srv/bin/migrate", "--version"]).stdout.startswith("migrate ")
        again = host.run(play, timeout_s=300).stdout
        assert "failed=0" in again and "changed=0" in again, again


def test_the_role_has_a_coordinator_run_under_systemd_once_and_anew_when_its_inventory_changes(tmp_path: Path) -> None:
    """In the unit of deploy/, with all that locks it up."""
    require_root()
    archive, known = tmp_path / "migrate.tar.gz", tmp_path / "inventory.toml"
    subprocess.run([Path(sys.executable).with_name("migrate"), "bundle", archive], check=True, timeout=200)
    known.write_text('[hosts.web-1]\naddress = "root@web-1"\n')
    with boot("coordinator", tmp_path) as machine:
        play = playbook(
            tmp_path, "coordinators", migrate_archive=str(archive), migrate_prefix="/run/migrate",
            migrate_bin="/run/bin", migrate_inventory=str(known),
        )  # fmt: skip
        first = machine.run(play)
        assert "failed=0" in first, first
        wait_until(lambda: names(machine) == ["web-1"], "it knows its host", deadline_s=60)
        status = Path(f"/proc/{machine.machine_pid(UNIT)}/status").read_text()
        for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"):
            assert line in status, status
        again = machine.run(play)
        assert "failed=0" in again and "changed=0" in again, again
        known.write_text('[hosts.web-2]\naddress = "root@web-2"\n')
        changed = machine.run(play)
        assert "failed=0" in changed and "changed=2" in changed, changed
        wait_until(lambda: "web-2" in names(machine), "it knows the other, too", deadline_s=60)


def names(machine: Booted) -> list[str]:
    """Hosts that the coordinator tells of; none while it does not answer."""
    said = machine.run(["curl", "-s", "http://127.0.0.1:8467/api/v1/hosts"], check=False)
    return [host["name"] for host in json.loads(said)["items"]] if said else []
