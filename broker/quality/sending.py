"""Sending events: the contract of the type picks the tier, and the checks come before anything is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from broker.contracts.envelopes import Entry
from broker.contracts.errors import DecodeError, EncodeError
from broker.contracts.event_contracts import contract_of
from broker.contracts.options import in_range
from broker.contracts.qos import QoS
from broker.messages import encode_body
from broker.quality.losses import Numbering
from broker.quality.stats import ContractStats
from broker.quality.vetting import FirstLook

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Receipt
    from broker.contracts.event_contracts import Contract
    from broker.enqueueing import Enqueuer
    from broker.quality.journaling import Journaling
    from broker.roster import Roster

_FIRST_WORD: Final = 2.0
"""Seconds that the first sends of a type wait at most for the server to say whether its promises hold. A server that is
silent says nothing against them, and what it would say is asked for on."""


class Line:
    """One event type at one broker.

    Attributes:
        contract: what was declared of it.
        stats: what was counted.
        look: whether its promises hold here.
    """

    def __init__(self, contract: Contract, backend: StreamBackend) -> None:
        self.contract = contract
        self.stats = ContractStats()
        self.look = FirstLook(contract, backend)
        self.numbering = Numbering()


class Sender:
    """Sends events, and knows every type of event of its broker."""

    def __init__(
        self, backend: StreamBackend, codec: Codec, enqueuer: Enqueuer, journaling: Journaling, roster: Roster
    ) -> None:
        self._journaling = journaling
        self._backend = backend
        self._codec = codec
        self._enqueuer = enqueuer
        self._roster = roster
        self._lines: dict[type, Line] = {}

    def line(self, event_type: object) -> Line:
        """The type's.

        Raises:
            InvalidOption: it has no contract.
        """
        known = self._lines.get(event_type) if isinstance(event_type, type) else None
        if known is None:
            contract = contract_of(event_type)
            known = self._lines[contract.event] = Line(contract, self._backend)
        return known

    async def send(self, event: object, timeout: float) -> Receipt | None:
        """As ``StreamBroker.send`` promises it."""
        line = self.line(type(event))
        if line.contract.qos is QoS.AT_MOST_ONCE:
            self._begin(line)
            self._publish(line, event)
            return None
        in_range("timeout", timeout, 0)
        deadline = asyncio.get_running_loop().time() + timeout
        entry = self._entry(line.contract, event)
        self._begin(line)
        await line.look.answered(min(_FIRST_WORD, timeout))
        line.look.check()
        journal = None
        if line.contract.qos is QoS.EXACTLY_ONCE:
            self._backend.board.check_open()
            journal = await self._journaling.journal(line.contract)
        if journal is None:
            receipt: Receipt | None = await self._enqueuer.store(self._enqueuer.record(entry), deadline=deadline)
        else:
            slip = await journal.write(entry)
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            receipt = await journal.stored(slip, left)
        line.stats.sent += 1
        if receipt is None:
            line.stats.journaled += 1
        else:
            line.stats.duplicates += receipt.duplicate
        return receipt

    async def drain(self, timeout: float, *, caller: asyncio.Task[object] | None = None) -> None:
        """Ask the server nothing more. Idempotent."""
        del timeout, caller
        for line in self._lines.values():
            await line.look.stop()

    def _begin(self, line: Line) -> None:
        if not line.look.begun:
            line.look.begin()
            self._roster.drainables.add(self)

    def _publish(self, line: Line, event: object) -> None:
        line.look.check()
        data = encode_body(self._codec, event)
        self._backend.publish(line.contract.subject, data, line.numbering.next())
        line.stats.sent += 1

    def _entry(self, contract: Contract, event: Any) -> Entry:
        """The event as it is stored.

        Raises:
            EncodeError: it cannot be encoded, or its values are not of the types its class declares, so that whoever
                gets it could only refuse it.
            InvalidKey: of its key fields.
        """
        data = encode_body(self._codec, event)
        try:
            self._codec.decode(data, contract.event)
        except DecodeError as exc:
            told = f"this {contract.event.__qualname__} could not be read back by anybody: {exc}"
            raise EncodeError(told, subject=contract.subject) from exc
        return Entry(contract.subject, data, contract.key_of(event), contract.ordering_key_of(event))
