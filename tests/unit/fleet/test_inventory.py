"""Which processes are workloads, and which inventory files are not understood."""

from pathlib import Path
from typing import Any

import pytest

from core.errors import UsageError
from migrate.agent import container_of
from migrate.fleet.inventory import Selector, find_workloads, read_inventory


def process(pid: int, ppid: int, command: str) -> dict[str, Any]:
    return {
        "pid": pid, "ppid": ppid, "start_time": 1, "user": "u", "command": command, "cgroup": "/c", "unit": "x.service",
        "memory_bytes": 10, "faults_per_s": 1.0,
    }  # fmt: skip


def test_a_tree_is_one_workload_with_all_its_memory() -> None:
    tree = [
        process(10, 1, "nginx: master"),
        process(11, 10, "nginx: worker"),
        process(12, 10, "helper"),
        process(9, 1, "sh"),
    ]
    [found] = find_workloads("a", tree, [Selector(name="web", command="nginx*")])
    assert (found.pid, found.processes, found.memory_bytes) == (10, 3, 30)


def test_the_first_selector_that_fits_has_it() -> None:
    selectors = [Selector(name="one", command="redis*"), Selector(name="two", user="u")]
    found = find_workloads("a", [process(10, 1, "redis-server"), process(11, 1, "sh")], selectors)
    assert [(each.pid, each.name) for each in found] == [(10, "one"), (11, "two")]


@pytest.mark.parametrize("selector", [Selector(name="all"), Selector(name="b", command="*", host="b*")])
def test_a_selector_without_a_pattern_or_for_other_hosts_claims_nothing(selector: Selector) -> None:
    assert find_workloads("a", [process(10, 1, "x")], [selector]) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[hosts.a]\n", "hosts.a.address: is missing"),
        ('[hosts.a]\naddress = "a b"\n', "address"),
        ('[hosts.a]\naddress = "a"\nsurprise = 1\n', "hosts.a.surprise: is not a known field"),
        ('[[workloads]]\nname = "x"\ntcp = "maybe"\n', "workloads.0.tcp: is not 'refuse' or 'close'"),
        ("hosts = 1\n", "hosts: is not an object"),
        ("[hosts", "TOML"),
    ],
)
def test_a_file_that_is_not_understood_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "inventory.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_inventory(path)
    assert str(path) in caught.value.message and said in caught.value.message


ID = "3f2a" * 16


@pytest.mark.parametrize(
    ("cgroups", "container"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"12:cpu:/docker/{ID}\n0::/\n", ID),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", ID),
        (f"0::/machine.slice/libpod-conmon-{ID}.scope\n", ""),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n", ID),
        (f"0::/kubepods/besteffort/pod12ab-34/{ID}\n", ID),
        (f"0::/kubepods.slice/crio-{ID}.scope\n", ID),
        ("0::/lxc.payload.web/system.slice/nginx.service\n", "web"),
        ("4:memory:/lxc/web\n0::/\n", "web"),
        ("0::/machine.slice/machine-web.scope/payload\n", "web"),
        ("0::/machine.slice/systemd-nspawn@web.service/payload\n", "web"),
        ("0::/machine.slice/machine-my\\x2dweb.scope/payload\n", "my-web"),
        ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope\n", ""),
        (f"0::/lxc.payload.web/system.slice/docker-{ID}.scope\n", "web"),
        (f"0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}\n", ID),
        ("0::/system.slice/docker.service\n", ""),
        ("0::/\n", ""),
    ],
)
def test_a_container_is_told_by_its_cgroup(cgroups: str, container: str) -> None:
    assert container_of(cgroups) == container


def test_a_container_is_selected_by_the_beginning_of_its_id_and_an_older_host_tells_of_none() -> None:
    inside = {**process(10, 1, "x"), "container": ID}
    [found] = find_workloads("a", [inside, process(11, 1, "x")], [Selector(name="c", container="3f2a3f2a*")])
    assert (found.pid, found.container) == (10, ID)
    [found] = find_workloads("a", [inside, process(11, 1, "x")], [Selector(name="c", container="*")])
    assert found.pid == 10
