"""``Outbox``: messages written in the transaction of what they follow from, and sent when it is committed."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from uuid import uuid4
from weakref import WeakSet

from sqlalchemy import delete, event, func, or_, select, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from broker.codecs.json_codec import JsonCodec
from broker.contracts.envelopes import Receipt
from broker.contracts.errors import InvalidOption
from broker.contracts.event_contracts import contract_of
from broker.contracts.headers import Headers
from broker.contracts.options import in_range
from broker.contracts.qos import QoS
from broker.contracts.subjects import publish_subject
from broker.exactly_once.claiming import Claiming
from broker.exactly_once.databases import Database
from broker.exactly_once.errors import KeyConflict
from broker.exactly_once.naming import named
from broker.exactly_once.relaying import Bell, Relay
from broker.exactly_once.schema import OUTBOX
from broker.exactly_once.stats import OutboxStats
from broker.exactly_once.transactions import Transactions, lender_of
from broker.keys import check_key
from broker.messages import encode_body

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from broker.contracts.codec import Codec
    from broker.contracts.headers import HeadersLike
    from broker.stream_broker import StreamBroker

WEEK: Final = 7 * 86_400.0
_BATCH: Final = 1000
_ONE_KEY: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 7))")
"""PostgreSQL numbers rows before they are committed; who waits here numbers one key's rows in the order of commits."""


class Sent(NamedTuple):
    """A message that was sent, for ``reconcile``."""

    at: float
    id: int
    subject: str
    key: str
    sequence: int


class Outbox:
    """Messages that follow from a transaction, written in it: sent if it is committed, and never otherwise.

    Attributes:
        stats: counters.

    Args:
        database: as for ``Inbox``; the one in which your transactions are.
        codec: for bodies that are not bytes; JSON by default.

    Raises:
        InvalidOption, Unsupported: as ``Inbox``.
    """

    def __init__(self, database: str | AsyncEngine, *, codec: Codec | None = None) -> None:
        self.stats = OutboxStats()
        self._codec = codec or JsonCodec()
        self._database = Database(database)
        self._transactions = Transactions(self._database)
        self._relayed = self._database.unsynced()
        insert: Any = sqlite.insert if self._database.kind == "sqlite" else postgresql.insert
        fresh = insert(OUTBOX).on_conflict_do_nothing(index_elements=["subject", "key"])
        self._insert = fresh.returning(OUTBOX.c.id)
        self._watched: WeakSet[Connection] = WeakSet()
        self._bells: WeakSet[Bell] = WeakSet()

    @property
    def engine(self) -> AsyncEngine:
        """The engine it works on."""
        return self._database.engine

    async def create(self) -> None:
        """Make the tables that are missing (the inbox's as well); see ``Inbox.create``.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        await self._database.create()

    async def check(self) -> None:
        """Refuse a database without the tables, or one that would not have a commit on disk; see ``Inbox.check``."""
        await self._database.check()

    async def enqueue(
        self,
        tx: AsyncConnection | AsyncSession,
        subject: str,
        body: Any,
        *,
        idempotency_key: str | None = None,
        ordering_key: str | None = None,
        headers: HeadersLike | None = None,
    ) -> str:
        """Write a message in the caller's transaction; its key.

        The same key and body once more is the same message and changes nothing.

        Args:
            tx: an SQLAlchemy connection or session with the transaction; a handler's ``tx``, for one.
            subject: one that a stream captures.
            body: bytes, or anything the codec encodes.
            idempotency_key: the message's name for ever; generated when ``None``.
            ordering_key: messages with the same key are sent one after the other, in the order written. On PostgreSQL
                the transaction has the key to itself until it ends. With several keys in one transaction take them in
                one order everywhere, sorted for one: otherwise two can wait for each other, and PostgreSQL ends one of
                them (``DatabaseContended`` from ``transaction``; an inbox tries the handler's again).
            headers: application headers.

        Raises:
            KeyConflict: another body is there under that key; nothing was written.
            InvalidSubject, InvalidKey, InvalidHeader, EncodeError: at once.
            InvalidOption: ``tx`` is neither of them.
        """
        row = self._row(subject, body, idempotency_key, ordering_key, headers)
        connection = await _connection_of(tx)
        if ordering_key is not None and self._database.kind == "postgresql":
            await connection.execute(_ONE_KEY, {"key": ordering_key})
        self.stats.enqueued += 1
        if (await connection.execute(self._insert, row)).first() is None:
            await self._refuse_conflict(connection, row)
            self.stats.repeats += 1
        self._watch(connection)
        return str(row["key"])

    async def send(self, tx: AsyncConnection | AsyncSession, event: object) -> str:
        """Write an event in the caller's transaction, as its contract says; its key. See ``enqueue``.

        Raises:
            InvalidOption: its type has no contract, or one of QoS 0, which nobody stores.
            And what ``enqueue`` raises.
        """
        declared = contract_of(type(event))
        if declared.qos is QoS.AT_MOST_ONCE:
            told = f"{declared.name}: nobody stores what is sent at most once; use StreamBroker.send"
            raise InvalidOption(told, option="event")
        return await self.enqueue(
            tx,
            declared.subject,
            event,
            idempotency_key=declared.key_of(event),
            ordering_key=declared.ordering_key_of(event),
        )

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction for messages alone, in turn with the relays of this process.

        Raises:
            DatabaseUnavailable, DatabaseContended: nothing is known to be written.
        """
        return self._transactions.begin()

    async def receipt(self, tx: AsyncConnection, subject: str, key: str) -> Receipt | None:
        """Where a message that was sent before is stored; ``None`` while it waits."""
        row = OUTBOX.c
        query = select(row.stream, row.sequence).where(row.subject == subject, row.key == key, row.sent_at.is_not(None))
        found = (await tx.execute(query)).first()
        return None if found is None else Receipt(found[0], found[1], duplicate=True)

    def relay(
        self,
        broker: StreamBroker,
        *,
        poll: float = 1.0,
        batch: int = 500,
        timeout: float = 10.0,
        tell: Callable[[str, str, Receipt], None] | None = None,
    ) -> Relay:
        """Sends what was committed, inside ``async with``; as many as you like, in as many processes.

        On PostgreSQL they share the work; on SQLite one works, and another takes over seconds after it is gone. What
        this process commits is sent at once.

        Args:
            broker: that sends.
            poll: seconds between two looks at what other processes have committed.
            batch: messages taken at a time.
            timeout: seconds that a batch may take to be stored.
            tell: called with subject, key and receipt of what is stored; returns at once and never raises.

        Raises:
            InvalidOption: out of range.
        """
        in_range("poll", poll, 0.01, 60)
        in_range("batch", batch, 1, 10_000, whole=True)
        in_range("timeout", timeout, 0.1, 60)
        bell = Bell()
        self._bells.add(bell)
        return Relay(Claiming(self._relayed, batch), broker, bell, self.stats, poll=poll, timeout=timeout, tell=tell)

    async def waiting(self) -> int:
        """How many messages are not sent yet.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        async with self._transactions.reading() as connection:
            query = select(func.count()).select_from(OUTBOX).where(OUTBOX.c.sent_at.is_(None))
            return (await connection.execute(query)).scalar_one()

    async def unsettled(self, names: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of up to 1,000 (subject, key) pairs whose row is not known to be settled, so that it may be sent again.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        if not names:
            return set()
        condition, values = named(self._database.kind, names)
        query = f"SELECT subject, key FROM gamebroker_outbox WHERE settled_at IS NULL AND {condition}"  # noqa: S608 - placeholders
        async with self._transactions.reading() as connection:
            rows: Any = await connection.exec_driver_sql(query, values)
            return {(subject, key) for subject, key in rows}

    async def prune(self, *, keep: float = WEEK, settled_only: bool = False) -> int:
        """Remove what was sent more than ``keep`` seconds ago, a thousand at a time; how many.

        Args:
            keep: seconds, from 0. A key that is removed may be written anew.
            settled_only: leave what ``reconcile`` has not seen settled; for those who reconcile.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        in_range("keep", keep, 0)
        row, removed, last = OUTBOX.c, 0, 0
        may_go = row.sent_at < time.time() - keep
        if settled_only:
            may_go &= row.settled_at.is_not(None)
        while True:
            # Looked for beside whoever writes; what has changed meanwhile stays.
            async with self._transactions.reading() as connection:
                page = select(row.id).where(may_go, row.id > last).order_by(row.id).limit(_BATCH)
                some = (await connection.execute(page)).scalars().all()
            if some:
                last = some[-1]
                async with self._transactions.begin() as tx:
                    gone = (await tx.execute(delete(OUTBOX).where(row.id.in_(some), may_go))).rowcount
                removed += gone
                self.stats.pruned += gone
            if len(some) < _BATCH:
                return removed

    async def sent_before(self, when: float, stream: str, after: Sent | None, limit: int) -> list[Sent]:
        """Rows for ``reconcile``, by the time they were sent: what that stream stored and nobody saw settled."""
        row = OUTBOX.c
        query = select(row.sent_at, row.id, row.subject, row.key, row.sequence).where(
            row.sent_at < when, row.settled_at.is_(None), row.stream == stream
        )
        if after is not None:
            query = query.where(row.sent_at >= after.at, tuple_(row.sent_at, row.id) > (after.at, after.id))
        async with self._transactions.reading() as connection:
            rows = await connection.execute(query.order_by(row.sent_at, row.id).limit(limit))
            return [Sent(*each) for each in rows]

    async def judge(self, *, settled: Collection[int], again: Collection[int]) -> None:
        """What ``reconcile`` found out about rows, in one transaction."""
        if not settled and not again:
            return
        row, now = OUTBOX.c, time.time()
        async with self._transactions.begin() as tx:
            if settled:
                await tx.execute(update(OUTBOX).where(row.id.in_(settled)).values(settled_at=now))
            if again:
                anew = {"sent_at": None, "due_at": now, "attempts": 0, "repeats": row.repeats + 1}
                await tx.execute(update(OUTBOX).where(row.id.in_(again)).values(anew))
        if again:
            self._tell()

    async def aclose(self) -> None:
        """Let go of the connections; an engine that was handed in stays open. Idempotent."""
        await self._relayed.close()
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _row(
        self, subject: str, body: Any, key: str | None, ordering_key: str | None, headers: HeadersLike | None
    ) -> dict[str, Any]:
        publish_subject(subject)
        checked = Headers.checked(headers)
        now = time.time()
        return {
            "subject": subject,
            "key": uuid4().hex if key is None else check_key(key),
            "ordering_key": None if ordering_key is None else check_key(ordering_key, "ordering_key"),
            "headers": None if checked is None else json.dumps(checked.pairs),
            "body": encode_body(self._codec, body),
            "created_at": now,
            "due_at": now,
            "attempts": 0,
            "repeats": 0,
        }

    async def _refuse_conflict(self, connection: AsyncConnection, row: dict[str, Any]) -> None:
        there = select(OUTBOX.c.id).where(
            OUTBOX.c.subject == row["subject"],
            OUTBOX.c.key == row["key"],
            or_(OUTBOX.c.body != row["body"], OUTBOX.c.ordering_key.is_distinct_from(row["ordering_key"])),
        )
        if (await connection.execute(there)).first() is not None:
            told = (
                f"key {row['key']!r} was used for another message on {row['subject']!r} (another body or ordering key)"
            )
            raise KeyConflict(f"{told}: one key for one effect")

    def _watch(self, connection: AsyncConnection) -> None:
        """Wake the relays of this process when the transaction is committed."""
        if (lender := lender_of(connection)) is not None:
            lender.when_committed.add(self._tell)
            return
        committing = connection.sync_connection
        if committing is not None and committing not in self._watched:
            self._watched.add(committing)
            event.listen(committing, "commit", lambda _: self._tell(early=True))

    def _tell(self, *, early: bool = False) -> None:
        for bell in tuple(self._bells):
            bell.ring(early=early)


async def _connection_of(tx: AsyncConnection | AsyncSession) -> AsyncConnection:
    if isinstance(tx, AsyncSession):
        return await tx.connection()
    if not isinstance(tx, AsyncConnection):
        told = f"tx={type(tx).__name__}: must be an SQLAlchemy AsyncConnection or AsyncSession"
        raise InvalidOption(told, option="tx")
    return tx
