"""The mailboxes: letters, claims, what changed hands; each change in its caller's transaction with its audit record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from services.events import Letter
from services.mail import escrow
from services.mail.escrow import ESCROW, State
from services.mail.tables import CLAIM, LETTER, POSTING, WAITING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker.exactly_once import Outbox
    from services.events import Claim, MailRecord

_SWEPT: Final = 100
"""Letters that expire in one transaction at most: others want to write as well."""


class UnknownLetter(LookupError):
    """The player has no such letter. It may still be on its way, or there never was one."""


class MailConflict(ValueError):
    """Another letter or claim is there under that id; the first one stands, and trying again will not help."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A letter as its player sees it."""

    letter: Letter
    state: State


class Mailbox:
    """All players' mail. Every method works in the transaction it is given.

    Args:
        outbox: of the same database; audit records go into it.
        clock: nanoseconds since the Unix epoch.
    """

    def __init__(self, outbox: Outbox, clock: Callable[[], int] = time.time_ns) -> None:
        self._outbox = outbox
        self._clock = clock
        self._insert: Any = sqlite.insert if outbox.engine.dialect.name == "sqlite" else postgresql.insert

    async def store(self, tx: AsyncConnection, player: str, letter: Letter) -> None:
        """Keep a letter, what is attached to it in escrow. The same letter once more changes nothing.

        Raises:
            MailConflict: the player has another letter of that id.
        """
        row = {
            "player": player,
            "letter_id": letter.letter_id,
            "body": msgspec.json.encode(letter),
            "sent_at": letter.sent_at,
            "expires_at": letter.expires_at,
            "state": escrow.first_state(letter),
        }
        if await self._write(tx, LETTER, row):
            await self._record(tx, escrow.stored(player, letter, self._clock()))
        elif (await self._find(tx, player, letter.letter_id)).letter != letter:
            raise MailConflict(f"{player} has another letter {letter.letter_id}")

    async def claim(self, tx: AsyncConnection, player: str, claim: Claim) -> None:
        """Give the player what is attached, unless somebody was first or its time is over. A repeat changes nothing.

        Raises:
            UnknownLetter: see there.
            MailConflict: that claim was made for another letter.
        """
        if await self._was_made(tx, player, claim):
            return
        now, actor = self._clock(), claim.actor or player
        letter = await self._close(tx, player, claim.letter_id, State.CLAIMED, LETTER.c.expires_at > now)
        if letter is not None:
            record = escrow.claimed(player, letter, claim.claim_id, actor, now)
        else:
            # Looked up after our attempt, so that it shows who was first.
            state = (await self._find(tx, player, claim.letter_id)).state
            record = escrow.denied(player, claim.letter_id, claim.claim_id, actor, now, state)
        made = {"player": player, "claim_id": claim.claim_id, "letter_id": claim.letter_id}
        # The same claim at the same time beside us: this refuses, and the next attempt finds that it was made.
        await tx.execute(insert(CLAIM).values(**made, outcome=record.outcome, reason=record.reason, at=now))
        await self._record(tx, record)

    async def expire(self, tx: AsyncConnection) -> int:
        """Send back what nobody claimed in time, of some letters; how many, 0 when there are no more."""
        now, row = self._clock(), LETTER.c
        due = select(row.player, row.letter_id).where(WAITING, row.expires_at <= now)
        # A whole order: two workers that sweep at once take the same letters one after the other, not in circles.
        late = (await tx.execute(due.order_by(row.expires_at, row.player, row.letter_id).limit(_SWEPT))).all()
        for player, letter_id in late:
            letter = await self._close(tx, player, letter_id, State.EXPIRED, row.expires_at <= now)
            if letter is not None:  # else a claim, or another worker, was first
                await self._record(tx, escrow.expired(player, letter, now))
        return len(late)

    async def mail(self, tx: AsyncConnection, player: str) -> list[Mail]:
        """The player's letters, newest first."""
        row = LETTER.c
        query = select(row.body, row.state).where(row.player == player).order_by(row.sent_at.desc(), row.letter_id)
        return [_mail(*found) for found in await tx.execute(query)]

    async def in_escrow(self, tx: AsyncConnection) -> dict[str, int]:
        """How much of each currency is attached and not claimed, by what changed hands."""
        row = POSTING.c
        query = select(row.currency, func.sum(row.amount)).where(row.account == ESCROW).group_by(row.currency)
        return {currency: int(amount) for currency, amount in await tx.execute(query) if amount}

    async def _find(self, tx: AsyncConnection, player: str, letter_id: str) -> Mail:
        row = LETTER.c
        query = select(row.body, row.state).where(row.player == player, row.letter_id == letter_id)
        found = (await tx.execute(query)).first()
        if found is None:
            raise UnknownLetter(f"{player} has no letter {letter_id}")
        return _mail(*found)

    async def _was_made(self, tx: AsyncConnection, player: str, claim: Claim) -> bool:
        row = CLAIM.c
        query = select(row.letter_id).where(row.player == player, row.claim_id == claim.claim_id)
        made_for = (await tx.execute(query)).scalar()
        if made_for not in (None, claim.letter_id):
            raise MailConflict(f"claim {claim.claim_id} of {player} was made for letter {made_for}")
        return made_for is not None

    async def _close(self, tx: AsyncConnection, player: str, letter_id: str, state: State, still: Any) -> Letter | None:
        """The letter, if it was still waiting, ``still`` held, and now is in that state: of many, one gets it."""
        row = LETTER.c
        query = update(LETTER).where(row.player == player, row.letter_id == letter_id, WAITING, still)
        closed = await tx.execute(query.values(state=state, closed_at=self._clock()).returning(row.body))
        body = closed.scalar()
        return None if body is None else msgspec.json.decode(body, type=Letter)

    async def _record(self, tx: AsyncConnection, record: MailRecord) -> None:
        """What changed hands, and the audit record that says so."""
        if record.postings:
            lines = [
                {"tx": record.record_id, "n": n, **msgspec.structs.asdict(each)}
                for n, each in enumerate(record.postings)
            ]
            await tx.execute(insert(POSTING), lines)
        await self._outbox.send(tx, record)

    async def _write(self, tx: AsyncConnection, table: Table, row: dict[str, Any]) -> bool:
        """Whether it was written: not when its key is there."""
        written = self._insert(table).on_conflict_do_nothing().returning(*table.primary_key)
        return (await tx.execute(written, row)).first() is not None


def _mail(body: bytes, state: str) -> Mail:
    return Mail(msgspec.json.decode(body, type=Letter), State(state))
