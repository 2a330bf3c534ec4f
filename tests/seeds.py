"""Random numbers for tests: the same in every run, unless TEST_SEED says another seed, or `random`."""

import os
import random


def random_numbers() -> random.Random:
    """A generator whose seed the captured output of a failed test tells."""
    wanted = os.environ.get("TEST_SEED", "1")
    seed = random.SystemRandom().randrange(1 << 32) if wanted == "random" else int(wanted)
    print(f"TEST_SEED={seed}")
    return random.Random(seed)
