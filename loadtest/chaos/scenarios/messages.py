"""Messages that should not be, or not again."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from broker import PayloadTooLarge
from loadtest.chaos.books import INBOX
from loadtest.chaos.catalogue import DUPLICATE_WINDOW
from loadtest.chaos.databases import Unreadable
from loadtest.chaos.histories import Fate
from loadtest.chaos.settlements import POISON, STREAM, SUBJECT, WORKERS, Settlement, body_of, settlement_of
from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_MANY: Final = 30
_MARGIN: Final = 0.5
"""Seconds by which a message must have left the duplicate window to be sure that it has."""
_TOO_MUCH: Final = 1 << 20
_HEADERS: Final = 20
"""Bytes by which headers alone make a message too large: the client must count them, or be cut off."""


class Poison:
    """A settlement no handler survives: given back, tried again, and a dead letter in the end."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        key = f"poison-{fault.number}"
        await stage.inject.send(key, body_of(Settlement(key, POISON, 1)), Fate.LETTER)

        async def buried() -> str | None:
            async for letter in stage.broker.dead_letters.list(stream=STREAM):
                if letter.idempotency_key == key:
                    return f"{key} is a dead letter after {letter.attempts} attempts: {letter.reason}"
            return None

        stage.fired(fault, await stage.shown(buried, f"{key} did not become a dead letter"))


class Malformed:
    """Bytes that are no settlement: a dead letter each, at once."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        bodies = (b"", b"\xff\xfe{", b"[" * 100_000, b'{"key":1}', body_of(Settlement("x", "y", -1)))
        for number, body in enumerate(bodies):
            await stage.inject.send(f"malformed-{fault.number}-{number}", body, Fate.LETTER)
        stage.fired(fault, f"{len(bodies)} were stored")


class Oversized:
    """Refused before it is sent, by its body or by its headers; the connection stays, and the next one is stored."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        told = []
        for size in (_TOO_MUCH + 1, _TOO_MUCH - _HEADERS):
            try:
                await stage.inject.send(f"oversized-{fault.number}-{size}", b"x" * size, Fate.LETTER)
            except PayloadTooLarge as exc:
                told.append(exc.size)
        if len(told) < 2:
            raise NotFired("the server was sent more than it takes")
        key = f"after-oversized-{fault.number}"
        await stage.inject.send(key, body_of(settlement_of(key)))
        stage.fired(fault, f"refused with {' and '.join(map(str, told))} bytes")


class DupInside:
    """What was stored a moment ago, again: the server drops it."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""

        async def absorbed() -> str | None:
            keys = [f"twice-{fault.number}-{number}" for number in range(_MANY)]
            for _ in range(2):
                receipts = [await stage.inject.send(key, body_of(settlement_of(key))) for key in keys]
            dropped = sum(receipt.duplicate for receipt in receipts)
            return f"{dropped} of {len(receipts)} dropped by the server" if dropped else None

        stage.fired(fault, await stage.shown(absorbed, "the server dropped none"))


class DupOutside:
    """What took effect long ago, again: the server stores it, and only the inbox can tell."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""

        async def stored() -> str | None:
            keys = await _keys(stage, DUPLICATE_WINDOW + _MARGIN)
            receipts = [await stage.inject.send(key, body_of(settlement_of(key))) for key in keys]
            again = sum(not receipt.duplicate for receipt in receipts)
            return f"{again} stored again" if again else None

        stage.fired(fault, await stage.shown(stored, "the server stored none of them again"))


class KeyConflict:
    """Another payload under a key that has taken effect: a dead letter, and no effect."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""

        async def stored() -> str | None:
            for key in await _keys(stage, DUPLICATE_WINDOW + _MARGIN):
                other = body_of(Settlement(key, f"thief-{fault.number}", 1000))
                if not (await stage.inject.send(key, other, Fate.LETTER)).duplicate:
                    return f"{key} was stored with another payload"
            return None

        stage.fired(fault, await stage.shown(stored, "the server stored none of them"))


async def _keys(stage: Stage, older_than: float) -> list[str]:
    """Some keys that took effect more than so many seconds ago."""
    query = (
        f"SELECT o.key FROM outbox o JOIN {INBOX} i ON i.key = o.key AND i.consumer = ? AND i.subject = ? "  # noqa: S608 - a constant
        "WHERE i.at < ? ORDER BY o.id LIMIT ?"
    )
    values = (WORKERS, SUBJECT, time.time() - older_than, _MANY)
    try:
        found = await asyncio.to_thread(stage.database.rows, query, values)
    except Unreadable:  # another fault's doing: there is a next look
        return []
    return [key for (key,) in found]
