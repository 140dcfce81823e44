"""``Claims``: who does what, and what is done, remembered in a bucket. Not exactly once, and it says so."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from broker.contracts.errors import ConnectionLost, RequestTimeout
from broker.contracts.key_errors import KeyExists, WriteUnknown
from broker.contracts.options import in_range
from broker.keys import check_key

if TYPE_CHECKING:
    from broker.key_value.bucket import KeyValue

_PAUSE: Final = 0.05


class Claims:
    """Two ways to keep repeats out without a transaction; each loses one thing when a worker dies in between.

    *Claim before* the effect: at most once. Whoever claimed and died leaves the effect undone for good.
    *Mark after* the effect: at least once. Whoever died before the mark has its effect repeated.

    Neither is exactly once, and no order of the two makes it so: that takes the effect and the mark in one write, which
    is ``Projection`` in a bucket and ``broker.exactly_once.Inbox`` in a database.

    Args:
        bucket: where they are; its ``ttl`` is how long they are remembered.
        ttl: whole seconds instead of the bucket's.
    """

    def __init__(self, bucket: KeyValue, *, ttl: float | None = None) -> None:
        self._bucket = bucket
        self._ttl = ttl

    async def claim(self, key: str, *, timeout: float = 10.0) -> bool:
        """Whether the effect is the caller's to do: ``True`` for one caller only, ever.

        Args:
            key: of the effect, such as ``msg.idempotency_key``.
            timeout: seconds, all attempts together.

        Raises:
            WriteUnknown: no word in time; the claim may be made, and then nobody has it.
            InvalidKey, InvalidOption: at once. And what ``KeyValue.create`` raises.
        """
        in_range("timeout", timeout, 0)
        name, token = _name(key), uuid4().hex.encode()
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        while True:
            left = max(0.0, deadline - clock())
            try:
                await self._bucket.create(name, token, ttl=self._ttl, timeout=left)
            except KeyExists:
                whose = await self._whose(name)
                if whose is not None:
                    return whose == token  # ours, of an attempt whose answer was lost
                if not left:
                    told = f"the claim on {key!r} may be made, and nobody says whose it is"
                    raise WriteUnknown(told, key=name, revision=0) from None
            except WriteUnknown:
                if not left:
                    raise
            else:
                return True
            await asyncio.sleep(min(_PAUSE, max(0.0, deadline - clock())))

    async def _whose(self, name: str) -> bytes | None:
        """The token of whoever has it; ``None``: it is gone again, or nobody says."""
        try:
            entry = await self._bucket.get(name)
        except (ConnectionLost, RequestTimeout):
            return None
        return None if entry is None else entry.value

    async def mark(self, key: str) -> None:
        """Remember that the effect is done. Raises as ``KeyValue.put``; may be repeated."""
        await self._bucket.put(_name(key), b"done", ttl=self._ttl)

    async def marked(self, key: str) -> bool:
        """Whether it is marked, or claimed. A copy of the bucket may answer that is a moment behind."""
        return await self._bucket.get(_name(key)) is not None


def _name(key: str) -> str:
    """A key may hold what a bucket's may not."""
    return hashlib.sha256(check_key(key).encode()).hexdigest()
