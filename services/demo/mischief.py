"""Repeats what rooms have said, on purpose: duplicates that the server and the ledger have to absorb."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from broker import Entry
from services.events import BATTLE_SETTLE

if TYPE_CHECKING:
    from broker import StreamBroker

_SAME_KEY: Final = 0.3
_OTHER_KEY: Final = 0.3
_PREFIX: Final = "again-"


class Mischief:
    """Reads results from the stream and enqueues a share of them again.

    With the same key, as a producer that lost its receipt would: the server drops it. With another key, as one that
    forgot which it was would: it is stored, to the inbox it is a new message, and only the ledger can tell.
    """

    def __init__(self, broker: StreamBroker) -> None:
        self._broker = broker
        self._bodies: list[bytes] = []
        self._dice = random.Random(0)
        self.absorbed_by_server = 0
        self.stored_again = 0

    async def run(self) -> None:
        """Until cancelled."""
        async with self._broker.read(BATTLE_SETTLE, start="first") as messages:
            async for message in messages:
                key = message.idempotency_key
                if key is None or key.startswith(_PREFIX):
                    continue
                self._bodies.append(message.data)
                if self._dice.random() < _SAME_KEY or len(self._bodies) == 1:
                    receipt = await self._broker.enqueue(BATTLE_SETTLE, message.data, idempotency_key=key)
                    self.absorbed_by_server += receipt.duplicate
                    self.stored_again += not receipt.duplicate
                if self._dice.random() < _OTHER_KEY:
                    await self._again([message.data])

    async def burst(self, count: int) -> None:
        """Enqueue ``count`` known results once more, at once."""
        if self._bodies:
            await self._again(self._dice.choices(self._bodies, k=count))

    async def _again(self, bodies: list[bytes]) -> None:
        first = self.stored_again
        self.stored_again += len(bodies)
        await self._broker.enqueue_many(
            Entry(BATTLE_SETTLE, body, idempotency_key=f"{_PREFIX}{first + n}") for n, body in enumerate(bodies)
        )
