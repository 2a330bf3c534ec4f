"""Putting migrate onto a host: this installation as an archive, the script that unpacks it, SSH to carry both."""
