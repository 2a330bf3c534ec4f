"""What is said when a part of ours cannot be imported. Imports nothing of ours itself."""

import sys


def tell_incomplete(error: ImportError) -> int:
    """One sentence on stderr; returns the exit code."""
    sys.stderr.write(f"migrate: is not installed completely: {error}\n  → `make build` in its directory completes it\n")
    return 1
