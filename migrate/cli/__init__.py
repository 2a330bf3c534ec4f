"""The command line. Here is only the door: what stands behind it is commands.py's."""

import sys


def main() -> None:
    """Run the command line and exit. An installation that is not whole is said in a sentence, too."""
    try:
        from migrate.cli import commands
    except ImportError as error:
        sys.stderr.write(
            f"migrate: is not installed completely: {error}\n  → `make build` in its directory completes it\n"
        )
        sys.exit(1)
    commands.main()
