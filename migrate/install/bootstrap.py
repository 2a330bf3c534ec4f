"""Installs this very program on another host over SSH; nothing there needs the internet."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Final

from core.errors import Blocker, Refused
from migrate.errors import ConnectionLost, InstallError
from migrate.install.bundle import INSTALLER, Bundle
from migrate.transport.destination import Destination
from migrate.transport.process import RemoteProcess
from migrate.transport.session import SshOptions, SshSession, open_session

CHUNK_BYTES: Final = 256 << 10
REFUSED: Final = 3
SHELL: Final = ("sh",)
SHELL_BY_SUDO: Final = ("sudo", "-n", "sh")


async def bootstrap(
    destination: Destination, options: SshOptions, bundle: Bundle, tell: Callable[[str], None],
    *, places: Sequence[str] = (), sudo: bool = False,
) -> None:  # fmt: skip
    """Have install.sh over there look first, then send it the archive. `places`: its --prefix and --bin.

    Refused when the host cannot take it, with every reason; InstallError when it failed half-way: then nothing of it
    is left there.
    """
    script, shell = INSTALLER.read_text(), SHELL_BY_SUDO if sudo else SHELL
    words = ["-c", script, "install.sh", *places, "--manifest", bundle.manifest]
    async with open_session(destination, replace(options, remote_command=shell)) as session:
        for notice in session.notices:
            tell(notice)
        looked = await _run(session, [*words, "--check", "-"])
        if "to be installed" in looked[-1]:
            archive = BytesIO()
            await asyncio.to_thread(bundle.write, archive)
            tell(f"{destination}: sending {archive.tell() >> 20} MiB")
            looked = await _run(session, [*words, "-"], archive.getbuffer())
        for line in looked:
            tell(f"{destination}: {line}")
        await _compare(session, destination, bundle, tell)


async def _compare(session: SshSession, destination: Destination, bundle: Bundle, tell: Callable[[str], None]) -> None:
    """Say so when another migrate is found first on the PATH there."""
    found = (await _run(session, ["-c", 'readlink -f "$(command -v migrate)" || echo nowhere']))[-1]
    if f"/{bundle.id}/" not in found:
        tell(f"{destination}: on the PATH of its logins `migrate` is {found}; name ours with --remote-command")


async def _run(session: SshSession, words: Sequence[str], data: memoryview | None = None) -> list[str]:
    """What it said on standard output; what went wrong is an error of ours."""
    process = await session.start(words)
    try:
        lines = asyncio.create_task(process.text())
        await _send(process, data)
        said, status = await lines, await process.wait()
        if status == REFUSED:
            raise Refused(parse_refusals(process.stderr_lines))
        if status or not said:
            last = process.stderr_lines[-1] if process.stderr_lines else f"exit code {status}"
            raise InstallError(f"{process.peer}: {last.removeprefix('install.sh: ')}", hint="nothing was changed there")
        return said
    finally:
        await process.close()


async def _send(process: RemoteProcess, data: memoryview | None) -> None:
    """All of it, or as much as is taken: why it is no more, the exit tells."""
    try:
        for begin in range(0, len(data or b""), CHUNK_BYTES):
            process.stdin.write(bytes((data or memoryview(b""))[begin : begin + CHUNK_BYTES]))
            await process.stdin.drain()
    except (ConnectionError, ConnectionLost):
        pass
    await process.end_input()


def parse_refusals(lines: Sequence[str]) -> list[Blocker]:
    """What install.sh refused: `refused: SUBJECT: REASON`, then its hint."""
    found = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if match := re.match(r"refused: (.+?): (.+)", line):
            hint = after.strip().removeprefix("→ ") if after.startswith("  →") else None
            found.append(Blocker("bootstrap", match[1], match[2], hint))
    return found
