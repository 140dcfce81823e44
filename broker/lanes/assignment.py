"""Who takes which lane: the same answer for everybody who knows the same workers. No I/O."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


def assignment(workers: Collection[str], lanes: int) -> dict[str, frozenset[int]]:
    """The lanes of each worker: rendezvous hashing, with an equal share at most.

    Each lane goes to the worker that scores highest for it and has room; nobody has more than the average, rounded up.
    Without that bound 8 lanes over 3 workers would often be 5, 2 and 1. When a worker comes or goes, most lanes stay
    where they are.
    """
    if not workers:
        return {}
    share = -(-lanes // len(workers))
    taken: dict[str, set[int]] = {worker: set() for worker in workers}
    for lane in range(lanes):
        free = [worker for worker in workers if len(taken[worker]) < share]
        taken[max(free, key=lambda worker: (_score(worker, lane), worker))].add(lane)
    return {worker: frozenset(held) for worker, held in taken.items()}


def _score(worker: str, lane: int) -> bytes:
    return hashlib.blake2b(f"{worker} {lane}".encode(), digest_size=8).digest()
