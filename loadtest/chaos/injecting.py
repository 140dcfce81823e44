"""Messages that the director sends itself, each seen through and written down like a producer's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from broker import BrokerError
from loadtest.chaos.histories import Event, Fate, Op, digest_of, now
from loadtest.chaos.producer import REFUSALS
from loadtest.chaos.settlements import SUBJECT

if TYPE_CHECKING:
    from broker import Receipt, StreamBroker
    from loadtest.chaos.histories import History

_TIMEOUT: Final = 5.0
_PAUSE: Final = 0.1


class Injector:
    """Enqueues one message at a time.

    Attributes:
        last: number in the stream of the last one that was stored.
    """

    def __init__(self, broker: StreamBroker, history: History) -> None:
        self._broker = broker
        self._history = history
        self.last = 0

    async def send(self, key: str, body: bytes, fate: Fate = Fate.EFFECT) -> Receipt:
        """Its receipt, however many attempts it takes.

        Raises:
            StreamFull, NoStream, PayloadTooLarge, PermissionDenied: it was certainly not stored.
        """
        digest = digest_of(body)
        while True:
            self._note(Op.START, key, digest, fate)
            try:
                receipt = await self._broker.enqueue(SUBJECT, body, idempotency_key=key, timeout=_TIMEOUT)
            except REFUSALS as exc:
                self._note(Op.FAIL, key, digest, type(exc).__name__)
                raise
            except BrokerError as exc:
                self._note(Op.UNKNOWN, key, digest, type(exc).__name__)
                await asyncio.sleep(_PAUSE)
            else:
                # A repeat of its key, and perhaps of another payload, that the server has dropped.
                absorbed = receipt.duplicate and fate is Fate.LETTER
                self._note(Op.ABSORBED if absorbed else Op.OK, key, digest)
                self.last = receipt.sequence
                return receipt

    def _note(self, op: Op, key: str, digest: str, told: str = "") -> None:
        self._history.write_many([Event(now(), op, key, digest, told=told)])
