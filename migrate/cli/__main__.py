"""`python -m migrate.cli` is `migrate`."""

from migrate.cli import main

main()
