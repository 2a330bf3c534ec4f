"""What deploy/ holds fits the program: names of metrics, options, fields."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from migrate.api.metrics import Metrics
from migrate.cli.commands import COMMANDS
from migrate.fleet.inventory import read_inventory
from migrate.fleet.store import Store

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def metric_names(folder: Path) -> set[str]:
    async def scrape() -> bytes:
        store = await Store.open(f"sqlite:///{folder}/x.db")
        metrics = Metrics()
        for body in (
            {"event": "round_done", "sent_bytes": 1, "dirty_pages": 1},
            {"event": "failed", "kind": "K"},
            {"event": "done", "downtime_s": 1, "total_s": 1, "phases": [{"name": "freeze", "seconds": 1}]},
        ):
            metrics.count("m", body)
        try:
            return await metrics.text(store)
        finally:
            await store.close()

    families = text_string_to_metric_families(asyncio.run(scrape()).decode())
    return {sample.name for family in families for sample in family.samples}


def test_dashboards_and_alerts_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    known = metric_names(tmp_path) | {"migrate_dirty_pages"}
    for name in ("alerts.yml", "grafana.json"):
        asked = set(re.findall(r"\bmigrate_[a-z_]+", (DEPLOY / name).read_text()))
        assert asked and asked <= known, f"{name}: {asked - known}"
    assert len({panel["id"] for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]}) == 8


def test_the_sample_inventory_is_understood() -> None:
    found = read_inventory(DEPLOY / "inventory.toml")
    assert set(found.hosts) == {"web-1", "web-2"} and len(found.workloads) == 3


def test_the_unit_starts_a_command_that_there_is_and_locks_up_the_coordinator_alone() -> None:
    unit = (DEPLOY / "migrate-serve.service").read_text()
    [line] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart="))
    assert words[1] in COMMANDS
    # Whatever traces must run without these: no unit of ours starts an agent.
    assert [path.name for path in DEPLOY.glob("*.service")] == ["migrate-serve.service"]


def test_ansible_understands_the_role(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("[movers]\nhost-a\n[coordinators]\nhost-b\n")
    playbook = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [playbook, "--syntax-check", "-i", inventory, DEPLOY / "ansible/site.yml"],
        capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr


def test_every_variable_of_the_role_has_a_value() -> None:
    role = DEPLOY / "ansible/roles/migrate"
    known = set(re.findall(r"(?m)^(migrate_\w+):", (role / "defaults/main.yml").read_text()))
    asked = {name for path in role.glob("tasks/*.yml") for name in re.findall(r"\bmigrate_\w+", path.read_text())}
    assert asked - {"migrate_installed"} == known


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    copy = tmp_path / "migrate-serve.service"
    copy.write_text((DEPLOY / "migrate-serve.service").read_text().replace("/usr/bin/migrate", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    mine = [line for line in done.stderr.splitlines() if "migrate-serve" in line]
    assert mine == []
