"""Which pages several address spaces have in common at the same address (fork shares them until one writes).

Owns the choice: one content per address, the one that most have. What a key is (a frame, a hash) the caller knows.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from core.errors import TraceeError
from core.kernel import page_keys
from core.kernel.page_keys import Ballot, Keys
from core.memory.present import open_pagemap
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.memory.zero_frames import probe_zero_frames

PART_BYTES = 256 << 20  # 64 Ki pages: what is looked at at a time

KeysOf = Callable[[Ranges], Mapping[int, Keys]]
"""The keys of each address space's pages in these ranges, by its id; the order says who is asked for the content."""


@dataclass(frozen=True, slots=True)
class Common:
    """Pages in common, by the id of an address space: `owned` are those whose content it is to give (each page is one
    owner's), `kept` all that it has of them."""

    owned: Mapping[int, Ranges] = field(default_factory=dict)
    kept: Mapping[int, Ranges] = field(default_factory=dict)

    @property
    def pages(self) -> Ranges:
        """All of them."""
        return EMPTY.union(*self.owned.values())


def repeated(carried: Iterable[Ranges]) -> Ranges:
    """What more than one of them has."""
    seen = twice = EMPTY
    for ranges in carried:
        twice = twice.union(seen.intersect(ranges))
        seen = seen.union(ranges)
    return twice


def find_common(spans: Ranges, keys_of: KeysOf) -> Common:
    """What at least two address spaces have in common in `spans`."""
    owned: dict[int, list[tuple[int, int]]] = {}
    kept: dict[int, list[tuple[int, int]]] = {}
    for part in spans.split(PART_BYTES):
        keys = keys_of(part)
        elected = _elect(part.total // PAGE_SIZE, keys.values())
        for id, own in keys.items():
            kept.setdefault(id, []).extend(page_keys.same_keys(part.spans, own, elected))
        for id, own in keys.items():
            owned.setdefault(id, []).extend(page_keys.same_keys(part.spans, own, elected, take=True))
    return Common(_filled(owned), _filled(kept))


def _elect(pages: int, voters: Iterable[Keys]) -> Keys:
    ballot = Ballot(pages)
    all_keys = list(voters)
    for keys in all_keys:
        ballot.vote(keys)
    ballot.recount()
    for keys in all_keys:
        ballot.count(keys)
    ballot.drop_single()
    return ballot.elected


def _filled(spans: Mapping[int, list[tuple[int, int]]]) -> dict[int, Ranges]:
    return {id: Ranges.ordered(found) for id, found in spans.items() if found}


def same_pages(spans: Ranges, keys: Keys, others: Keys) -> Ranges:
    """Where both have the same page."""
    return Ranges.ordered(page_keys.same_keys(spans.spans, keys, others))


def read_frames(pid: int, spans: Ranges) -> Keys:
    """The frames behind the pages of a process; without CAP_SYS_ADMIN the kernel hides them, and nothing is common."""
    pagemap_fd = open_pagemap(pid)
    try:
        return page_keys.read_frames(pagemap_fd, spans.spans, probe_zero_frames())
    except OSError as error:
        raise TraceeError(pid, f"cannot read its pagemap: {error.strerror}") from error
    finally:
        os.close(pagemap_fd)
