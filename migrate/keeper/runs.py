"""Ranges of a memory as the control protocol has them."""

from core import Ranges
from migrate.pb import control_pb2 as pb


def make_runs(mm_id: int, ranges: Ranges) -> pb.Runs:
    """The message."""
    return pb.Runs(mm_id=mm_id, starts=[start for start, _ in ranges], ends=[end for _, end in ranges])


def parse_runs(runs: pb.Runs) -> Ranges:
    """The ranges; ValueError when one has no end."""
    return Ranges.ordered(zip(runs.starts, runs.ends, strict=True))
