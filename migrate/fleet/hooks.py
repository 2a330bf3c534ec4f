"""The hooks of drains: one file per stage in a directory of the coordinator, called where it is there.

Called again when the coordinator dies before its answer is written down, so a hook has to bear that.
"""

import asyncio
import os
import signal
import tempfile
from pathlib import Path
from typing import IO, Final, Literal, TypeAlias

Stage: TypeAlias = Literal["before-host", "before-workload", "after-workload", "after-host"]
STAGES: Final[tuple[Stage, ...]] = ("before-host", "before-workload", "after-workload", "after-host")
WITHIN_S: Final = 300.0
LINE_SHOWN: Final = 300


class Hooks:
    """Calls them. Without a directory there are none."""

    def __init__(self, folder: Path | None = None, within_s: float = WITHIN_S) -> None:
        self._folder = folder
        self._within_s = within_s

    def has(self, stage: Stage) -> bool:
        """Is there a file for this stage?"""
        return self._folder is not None and (self._folder / stage).exists()

    async def call(self, stage: Stage, facts: dict[str, object]) -> str:
        """Call the file of `stage` with MIGRATE_NAME=VALUE for each fact; "" when all is well, else what is wrong."""
        if self._folder is None or not self.has(stage):
            return ""
        path = self._folder / stage
        if path.stat().st_mode & 0o022:
            return f"hook {path}: may be changed by others, so it was not called: chmod go-w"
        variables = {f"MIGRATE_{name.upper()}": str(value) for name, value in {"hook": stage, **facts}.items()}
        with tempfile.TemporaryFile() as said:  # no pipe: what it leaves running may keep that open
            try:
                process = await asyncio.create_subprocess_exec(
                    path, stdin=asyncio.subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                    env={**os.environ, **variables},
                )  # fmt: skip
            except OSError as error:
                return f"hook {path}: cannot be called: {error.strerror}"
            try:
                async with asyncio.timeout(self._within_s):
                    status = await process.wait()
            except TimeoutError:
                return f"hook {path}: took longer than {self._within_s:g} s and was ended"
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
            return f"hook {path}: exit code {status}{_last_line(said)}" if status else ""


def _last_line(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 4 * LINE_SHOWN))
    lines = said.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1][-LINE_SHOWN:]}" if lines else ""
