"""What a server has on disk: the records of a stream's last block, and one bit of one of them.

A record: its length (the highest bit says that it has headers), number in the stream, time, length of the subject, the
subject, length of the headers and the headers if it has any, the body, eight bytes of checksum.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HEAD: Final = struct.Struct("<IQqH")
_LENGTH: Final = struct.Struct("<I")
_HEADERS: Final = 1 << 31
_ERASED: Final = 1 << 63
_CHECKSUM: Final = 8
_FROM_THE_END: Final = 20
"""Records after the one that is hit: recent ones, so that some are not settled yet."""


class Flipped(NamedTuple):
    """A message that was damaged, the file that holds it, and how many come after it there."""

    block: str
    sequence: int
    body: bytes
    after: int


class Stored(NamedTuple):
    """A message on disk; ``at`` is where its body begins in the file."""

    sequence: int
    at: int
    body: bytes


def flip(store: Path, stream: str) -> Flipped | None:
    """Flip a bit of one of the last messages of a stream whose server is down; ``None`` when there is none on disk."""
    blocks = sorted(store.rglob(f"streams/{stream}/msgs/*.blk"), key=lambda path: int(path.stem), reverse=True)
    for block in blocks:
        content = bytearray(block.read_bytes())
        there = [each for each in stored(bytes(content)) if each.body]
        if not there:
            continue
        hit = there[-min(len(there), _FROM_THE_END)]
        content[hit.at] ^= 1
        block.write_bytes(content)
        return Flipped(block.name, hit.sequence, hit.body, there[-1].sequence - hit.sequence)
    return None


def stored(content: bytes) -> Iterator[Stored]:
    """The messages of a block, in order; what is torn at its end is left out."""
    at = 0
    while at + _HEAD.size <= len(content):
        length, sequence, _, subject = _HEAD.unpack_from(content, at)
        size = length & ~_HEADERS
        if size < _HEAD.size + _CHECKSUM or at + size > len(content):
            return
        body = at + _HEAD.size + subject
        if length & _HEADERS:
            [headers] = _LENGTH.unpack_from(content, body)
            body += _LENGTH.size + headers
        end = at + size - _CHECKSUM
        if not sequence & _ERASED:
            yield Stored(sequence, body, content[body:end])
        at += size
