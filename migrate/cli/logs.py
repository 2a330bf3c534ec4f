"""Where log records go: a file as JSON lines, the terminal with -vv, nowhere otherwise. Also where tracebacks are kept.

Library code logs with `logging`; only this module decides what becomes of it.
"""

import logging
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UsageError

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

TRACEBACK_DIRECTORIES = ("/var/lib/migrate/log", tempfile.gettempdir())


class MigrationStamp:
    """Puts the migration's id into every record once it is known."""

    def __init__(self) -> None:
        self.migration_id: str | None = None

    def __call__(self, logger: "WrappedLogger", method: str, event: "EventDict") -> "EventDict":
        """A structlog processor."""
        if self.migration_id is not None:
            event["migration"] = self.migration_id
        return event


def start_logging(log_file: Path | None, verbosity: int, stamp: MigrationStamp) -> None:
    """Send log records to `log_file` and, with -vv, to standard error; SSH's own only with -vvv."""
    root = logging.getLogger()
    root.handlers.clear()
    root.addHandler(logging.NullHandler())  # else Python's last resort would print warnings into the display
    root.setLevel(logging.DEBUG if log_file or verbosity > 2 else logging.INFO)
    if log_file is not None:
        root.addHandler(_handler(_open(log_file), stamp, as_json=True))
    if verbosity > 1:
        root.addHandler(_handler(logging.StreamHandler(sys.stderr), stamp, as_json=False))
    logging.getLogger("asyncssh").setLevel(logging.DEBUG if verbosity > 2 else logging.WARNING)


def _open(log_file: Path) -> logging.FileHandler:
    try:
        descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        return logging.FileHandler(log_file)
    except OSError as error:
        raise UsageError(f"--log-file {log_file}: cannot be written: {error.strerror}") from error


def _handler(handler: logging.Handler, stamp: MigrationStamp, *, as_json: bool) -> logging.Handler:
    import structlog  # slow to import, and most runs log nothing

    first: "list[structlog.typing.Processor]" = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        stamp,
    ]
    last: "list[structlog.typing.Processor]" = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        last += [structlog.dev.ConsoleRenderer(colors=False)]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=first, processors=last))
    return handler


def keep_traceback(error: BaseException, log_file: Path | None) -> str:
    """Write the traceback where the user can find it; returns that file's name."""
    text = "".join(traceback.format_exception(error))
    if log_file is not None:
        logging.getLogger("migrate.cli").critical("internal error\n%s", text)
        return str(log_file)
    for directory in TRACEBACK_DIRECTORIES:
        try:
            descriptor, path = tempfile.mkstemp(".log", f"migrate-error-{time.strftime('%Y%m%dT%H%M%S')}-", directory)
        except OSError:
            continue
        with open(descriptor, "w") as file:
            file.write(text)
        return path
    return "no file: none could be written"
