"""The command line. Here is only the door: what stands behind it is commands.py's."""

import sys

from migrate.cli.incomplete import tell_incomplete


def main() -> None:
    """Run the command line and exit. An installation that is not whole is said in a sentence, too."""
    try:
        from migrate.cli import commands
    except ImportError as error:
        sys.exit(tell_incomplete(error))
    commands.main()
