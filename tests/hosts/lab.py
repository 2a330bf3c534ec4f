"""Several hosts joined with each other: a veth pair between every two, names and keys known everywhere."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from tests.hosts.host import HOME, REPOSITORY, Host
from tests.hosts.ssh import CLIENT_CONFIG, make_key

NETWORK = "10.77.0."
PIDS_APART = 4000  # hosts give out different PIDs, so that a moved process finds its own one free


@contextlib.contextmanager
def make_hosts(
    *names: str, binds: Mapping[str, str] | None = None, own_binds: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[Sequence[Host]]:
    """Hosts of these names at 10.77.0.1, .2, …; all that they are is gone afterwards.

    binds: directories of the machine that every host has; own_binds: by host name.
    """
    addresses = {name: f"{NETWORK}{number}" for number, name in enumerate(names, 1)}
    with contextlib.ExitStack() as stack:
        hosts = []
        for number, name in enumerate(names):
            bound = {**(binds or {}), **((own_binds or {}).get(name, {}))}
            host = Host(name, files=files_of(name, addresses), binds=bound, first_pid=1000 + number * PIDS_APART)
            stack.callback(host.close)
            host.address = addresses[name]
            link_command(host)
            hosts.append(host)
        join(hosts)
        yield hosts


def link_command(host: Host) -> None:
    """`migrate` on the host's PATH."""
    command = host.path("/run/bin/migrate")
    command.parent.mkdir()
    command.symlink_to(REPOSITORY / ".venv/bin/migrate")


def files_of(name: str, addresses: Mapping[str, str]) -> dict[str, str]:
    """Names, keys and trust: every root may log in to every host and knows its key."""
    hosts = [f"{address} {other}" for other, address in addresses.items()]
    known = [f"{other},{address} {make_key(other).public}" for other, address in addresses.items()]
    user = make_key("root")
    return {
        "/run/over/etc/hosts": "\n".join(["127.0.0.1 localhost", *hosts]) + "\n",
        "/run/ssh_host_key": make_key(name).private,
        "/run/sshd/empty": "",
        "/var/lib/migrate/empty": "",
        f"{HOME}/.ssh/id_ed25519": user.private,
        f"{HOME}/.ssh/id_ed25519.pub": user.public,
        f"{HOME}/.ssh/authorized_keys": user.public,
        f"{HOME}/.ssh/known_hosts": "".join(known),
        f"{HOME}/.ssh/config": CLIENT_CONFIG,
    }


def join(hosts: Sequence[Host]) -> None:
    """lo up everywhere and a veth pair between every two hosts; nothing is made in the machine's own network."""
    commands: dict[str, list[str]] = {host.name: ["link set lo up"] for host in hosts}
    for one, other in combinations(hosts, 2):
        here, there = f"to-{other.name}"[:15], f"to-{one.name}"[:15]
        commands[one.name].append(f"link add {here} type veth peer name {there} netns {other.init_pid}")
        for host, link, peer in ((one, here, other), (other, there, one)):
            commands[host.name] += [f"addr add {host.address} peer {peer.address} dev {link}", f"link set {link} up"]
            host.links.append(link)
    for host in hosts:
        host.configure_network(*commands[host.name])
