"""The Ansible role brings a bare host to take processes, and changes nothing the second time."""

import sys
from pathlib import Path

import pytest

from tests.hosts import make_hosts
from tests.hosts.host import REPOSITORY
from tests.requires import require_root

pytestmark = pytest.mark.timeout(900)


def test_the_role_installs_the_program_once(tmp_path: Path) -> None:
    require_root()
    archive = tmp_path / "migrate.tar.gz"
    with make_hosts("host-a", binds={str(tmp_path): str(tmp_path)}) as (host,):
        host.run(["migrate", "bundle", str(archive)], timeout_s=200)
        host.path("/run/bin/migrate").unlink()
        inventory = tmp_path / "hosts.ini"
        inventory.write_text("[movers]\nhost-a ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n")
        variables = f"migrate_archive={archive} migrate_prefix=/srv/migrate migrate_bin=/srv/bin"
        playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), "-e", variables]
        playbook.append(str(REPOSITORY / "deploy/ansible/site.yml"))
        first = host.run(playbook, timeout_s=300).stdout
        assert "failed=0" in first and "changed=3" in first, first
        assert host.run(["/srv/bin/migrate", "--version"]).stdout.startswith("migrate ")
        again = host.run(playbook, timeout_s=300).stdout
        assert "failed=0" in again and "changed=0" in again, again
