"""`migrate bootstrap` and `migrate bundle`: putting this very program onto other hosts."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from migrate.cli.options import HostText, Key, KnownHosts
from migrate.cli.watch import ExitCode, say
from migrate.errors import InstallError

DEFAULT_PREFIX = "/opt/migrate"
DEFAULT_BIN = "/usr/local/bin"


def bootstrap(
    host: HostText,
    key: Key = None,
    known_hosts: KnownHosts = None,
    prefix: Annotated[
        str, typer.Option(metavar="DIR", help="Below it a virtual environment is made there.", show_default=True)
    ] = DEFAULT_PREFIX,
    bin_dir: Annotated[
        str, typer.Option("--bin", metavar="DIR", help="Where the link `migrate` goes there.", show_default=True)
    ] = DEFAULT_BIN,
    sudo: Annotated[bool, typer.Option("--sudo", help="Become root there by `sudo -n`.")] = False,
) -> int:
    """Install this very version, with all it needs, on another host over SSH. Nothing there needs the internet.

    Again it changes nothing. Exit code 3: the host cannot take it, every reason is named, and nothing was touched.
    """
    from migrate.install.bootstrap import bootstrap as carry
    from migrate.install.bundle import collect_bundle
    from migrate.transport.destination import parse_destination
    from migrate.transport.session import SshOptions

    options = SshOptions(identity_files=tuple(key or ()), known_hosts=known_hosts)
    places = ("--prefix", prefix, "--bin", bin_dir)
    work = carry(parse_destination(host), options, collect_bundle(), _tell, places=places, sudo=sudo)
    asyncio.run(work)
    return ExitCode.DONE


def bundle(file: Annotated[Path, typer.Argument(metavar="FILE", hidden=True)]) -> int:
    """Write this very version, with all it needs, into FILE (tar.gz), for a host that SSH does not reach.

    There: tar -xzf FILE install.sh && sh install.sh FILE
    """
    from migrate.install.bundle import collect_bundle

    found, beside = collect_bundle(), file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("wb") as written:
            found.write(written)
        beside.rename(file)
    except OSError as error:
        raise InstallError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    _tell(f"{file}: migrate {found.id}, {file.stat().st_size >> 20} MiB")
    return ExitCode.DONE


def _tell(line: str) -> None:
    say([line], sys.stdout)
    sys.stdout.flush()
