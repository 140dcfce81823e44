"""The chain: each record's hash covers the one before it. The rules only: no ``await``, no clock, no database here.

What is hashed is fixed for ever, see ``hash_of``. Whoever changes, leaves out, adds or moves a record breaks the chain
there, or has to write it anew from there on to its head, which an anchor kept elsewhere shows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC: Final = b"gamebroker-audit-1\n"
START: Final = bytes(32)
"""What stands before the first record."""


@dataclass(frozen=True, slots=True)
class Link:
    """A record in its chain.

    Attributes:
        source: the service that told it; each has a chain of its own.
        seq: from 1, without gaps.
        record_id: unique in the chain.
        recorded_at: nanoseconds since the Unix epoch.
        stream_seq: where the stream had it.
        body: the record as it came.
        previous: the hash of the one before.
        hash: see ``hash_of``.
    """

    source: str
    seq: int
    record_id: str
    recorded_at: int
    stream_seq: int
    body: bytes
    previous: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """How far a chain goes; kept elsewhere, an anchor."""

    source: str
    seq: int = 0
    hash: bytes = START

    def __str__(self) -> str:
        return f"{self.source} {self.seq} {self.hash.hex()}"

    @classmethod
    def parse(cls, line: str) -> Head:
        """What ``str`` made.

        Raises:
            ValueError: it is something else.
        """
        source, seq, digest = line.split()
        return cls(source, int(seq), bytes.fromhex(digest))

    def follow(self, *, record_id: str, recorded_at: int, stream_seq: int, body: bytes) -> Link:
        """The record that comes after it."""
        unsealed = Link(self.source, self.seq + 1, record_id, recorded_at, stream_seq, body, self.hash, b"")
        return replace(unsealed, hash=hash_of(unsealed))


class BrokenChain(Exception):
    """Somebody changed what was recorded; names the first record that shows it."""

    def __init__(self, source: str, seq: int, why: str) -> None:
        super().__init__(f"{source} {seq}: {why}")
        self.source = source
        self.seq = seq


def hash_of(link: Link) -> bytes:
    """What its hash has to be: a magic word, the previous hash, what is known of it as JSON, a line feed, the body."""
    told = msgspec.json.encode([link.source, link.seq, link.record_id, link.recorded_at, link.stream_seq])
    return hashlib.sha256(b"".join((MAGIC, link.previous, told, b"\n", link.body))).digest()


class Verification:
    """Goes along one chain, record by record, from the first.

    Args:
        source: of the chain.
        anchors: hashes by seq that are known from elsewhere.
    """

    def __init__(self, source: str, anchors: Mapping[int, bytes]) -> None:
        self.head = Head(source)
        self._anchors = anchors

    def take(self, link: Link) -> None:
        """Look at the next record.

        Raises:
            BrokenChain: it is not the one that was recorded there.
        """
        seq = self.head.seq + 1
        if link.seq != seq:
            raise BrokenChain(self.head.source, seq, f"missing: the next one is {link.seq}")
        if link.previous != self.head.hash:
            raise BrokenChain(self.head.source, seq, "does not follow the one before it")
        if link.hash != hash_of(link):
            raise BrokenChain(self.head.source, seq, "changed: its hash is another one")
        if self._anchors.get(seq, link.hash) != link.hash:
            raise BrokenChain(self.head.source, seq, "written anew: an anchor or the head says another hash")
        self.head = Head(link.source, seq, link.hash)

    def end(self, noted: int) -> None:
        """There are no more records, and the chain's head was noted at that seq or beyond.

        Raises:
            BrokenChain: records are missing at the end, or the head was set back.
        """
        furthest = max(self._anchors, default=0)
        if self.head.seq < furthest:
            raise BrokenChain(self.head.source, self.head.seq + 1, f"missing: the chain went to {furthest}")
        if noted < self.head.seq:
            raise BrokenChain(self.head.source, noted + 1, f"its chain's head was set back to {noted}")
