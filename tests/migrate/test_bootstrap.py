"""`migrate bootstrap` brings a host that has nothing of ours, and no internet, to take a process."""

from pathlib import Path

import pytest

from tests.hosts import make_hosts
from tests.hosts.host import REPOSITORY
from tests.migrate.moving import Pair
from tests.requires import require_root

pytestmark = pytest.mark.timeout(400)


def test_a_bare_host_takes_a_process_after_bootstrap(tmp_path: Path) -> None:
    require_root()
    own = {name: tmp_path / name.strip("/").replace("/", "-") for name in ("/opt", "/usr/local/bin")}
    shared = tmp_path / "shared"
    for folder in (*own.values(), shared):
        folder.mkdir()
    places = {name: str(folder) for name, folder in own.items()}
    with make_hosts("host-a", "host-b", binds={"/srv/shared": str(shared)}, own_binds={"host-b": places}) as (a, b):
        a.start_sshd()
        b.start_sshd()
        pair = Pair(a, b, Path("/srv/shared"))
        b.path("/run/bin/migrate").unlink()
        for ours in ("migrate", "core", ".venv"):
            b.run(["mount", "-t", "tmpfs", "none", str(REPOSITORY / ours)])
        b.run(["sh", "-c", "mkdir /srv/small && mount -t tmpfs -o size=1m none /srv/small"])
        pid = a.start(["/usr/bin/sleep", "100000"])

        missing = pair.migrate(pid, "root@host-b")
        assert missing.code != 0 and "migrate bootstrap" in missing.text, missing.text
        full = pair.migrate("bootstrap", "root@host-b", "--prefix", "/srv/small/migrate")
        assert full.code == 3 and "disk is full" in full.text, full.text
        assert not list(b.path("/srv/small").iterdir())

        first = a.run(["migrate", "bootstrap", "root@host-b"], timeout_s=300).stdout
        assert "/usr/local/bin/migrate: leads there" in first
        b.path("/run/bin/sudo").write_text('#!/bin/sh\nshift; exec "$@"\n')
        b.path("/run/bin/sudo").chmod(0o755)
        again = a.run(["migrate", "bootstrap", "--sudo", "root@host-b"], timeout_s=300).stdout
        assert "nothing to do" in again and "sending" not in again

        moved = pair.migrate(pid, "root@host-b")
        assert moved.code == 0, moved.text
        assert b.alive(pid) and not a.alive(pid)
        assert "/opt/migrate/" in b.run(["readlink", "-f", "/usr/local/bin/migrate"]).stdout
