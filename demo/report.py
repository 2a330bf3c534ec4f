"""What the demo says at the end: from the command's events and from the client's record. Formats, decides nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


def read_events(path: Path) -> list[Record]:
    """The events that `migrate --events-file` wrote, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.1f} MiB"


def migration_lines(events: list[Record]) -> list[str]:
    """Downtime by phase, rounds and bytes as the command measured them."""
    done = next((event for event in events if event["event"] == "done"), None)
    if done is None:
        return ["the command wrote no summary"]
    rounds = [
        f"  round {event['number']}: {event['dirty_pages']:>8,} pages, {size(event['sent_bytes']):>10} sent, "
        f"{event['seconds']:5.2f} s"
        for event in events
        if event["event"] == "round_done"
    ]
    phases = [f"  {phase['name']:<24} {phase['seconds'] * 1e3:7.1f} ms" for phase in done["phases"]]
    return [
        f"Rounds: {done['rounds']}, {done['pages']:,} pages, {size(done['sent_bytes'])} sent, {done['total_s']:.1f} s",
        *rounds,
        f"Downtime {done['downtime_s'] * 1e3:.1f} ms, of which",
        *phases,
    ]


def client_lines(record: Record) -> list[str]:
    """What somebody who used the server all the time saw."""
    where = ", ".join(f"{count:,} by {host}" for host, count in record["by_host"].items())
    return [
        f"Client: {record['acknowledged']:,} writes acknowledged ({where}), {record['sent_again']} sent again",
        f"  longest time between two acknowledgements: {record['longest_gap_s'] * 1e3:.1f} ms",
    ]
