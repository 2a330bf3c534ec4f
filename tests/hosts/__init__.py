"""Test hosts on one machine: namespaces with a network of their own, an init that reaps, and OpenSSH."""

from tests.hosts.host import Host, HostPopen
from tests.hosts.lab import make_hosts

__all__ = ["Host", "HostPopen", "make_hosts"]
