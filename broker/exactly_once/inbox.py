"""``Inbox``: what was applied, remembered in the database that holds the effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from broker.contracts.options import in_range
from broker.exactly_once.applying import Applying, ApplyingBatch, ApplyingEach
from broker.exactly_once.databases import Database
from broker.exactly_once.errors import RetentionTooShort
from broker.exactly_once.pruning import Pruning
from broker.exactly_once.recording import Recording
from broker.exactly_once.sharing import ApplyingShared
from broker.exactly_once.stats import InboxStats
from broker.exactly_once.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from broker.contracts.options import ConsumeOptions, StreamOptions
    from broker.exactly_once.outbox import Outbox
    from broker.stream_broker import StreamBroker

DAY: Final = 86_400.0
KEEP: Final = 90 * DAY
"""Seconds a mark is kept unless said otherwise."""
HOLDING: Final = DAY
"""Seconds that ``keep`` exceeds the age of a stream's messages at least: one may be in hand when it is too old."""


class Inbox:
    """Makes the effect of a message happen once: ``consume(subject, handler, durable=..., inbox=inbox)``.

    The handler gets ``(msg, tx)``. The message's key and what the handler does on ``tx`` are committed together, and
    only then is the message acked; a repeat finds the key and is acked without running the handler. The same key with
    another body goes to the dead letters with the reason ``"conflict"``.

    One ``Inbox`` serves any number of consumptions, and any number of processes may use the same tables.

    Attributes:
        stats: counters.
        keep: seconds a mark is kept at least.

    Args:
        database: a URL (``sqlite+aiosqlite:///ledger.db``, ``postgresql+psycopg://user@host/db``) or an SQLAlchemy
            ``AsyncEngine``, which stays yours to dispose of.
        keep: seconds a key is remembered at least; see ``prune``.

    Raises:
        InvalidOption: no such database, one in memory, or ``keep`` below a day.
        Unsupported: another kind of database, or its driver is not installed.
    """

    def __init__(self, database: str | AsyncEngine, *, keep: float = KEEP) -> None:
        in_range("keep", keep, DAY)
        self.keep = keep
        self.stats = InboxStats()
        self._database = Database(database)
        self._transactions = Transactions(self._database, lends=True)
        self._recording = Recording(self._database.kind)

    @property
    def engine(self) -> AsyncEngine:
        """The engine it works on, for your own reading."""
        return self._database.engine

    async def create(self) -> None:
        """Make the tables that are missing; ``upgrade`` does it step by step with Alembic instead.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        await self._database.create()

    async def check(self, stream: StreamOptions | None = None) -> None:
        """What ``consume`` makes sure of before it takes a message.

        Raises:
            SchemaMissing: the tables are not there.
            InvalidOption: a commit would not be on disk when it returns, the engine commits every statement, or none of
                the inbox's transactions can begin on it.
            RetentionTooShort: a key would be forgotten before its message is gone from the stream.
            DatabaseUnavailable: it cannot be reached.
        """
        age = None if stream is None else stream.max_age
        if age is not None and self.keep < age + HOLDING:
            told = (
                f"keep={self.keep:.0f}: the stream has its messages for {age:.0f} s, and each may come again as long; "
                f"keep keys for {age + HOLDING:.0f} s at least"
            )
            raise RetentionTooShort(told, option="keep")
        await self._database.check()
        await self._transactions.check()

    def applying(self, handler: Callable[..., Any], *, consumer: str, options: ConsumeOptions) -> Applying:
        """See ``broker.applying.Inbox``."""
        each = ApplyingShared if self._database.kind == "sqlite" else ApplyingEach
        kind: type[Applying] = each if options.batch_size is None else ApplyingBatch
        return kind(
            handler,
            consumer=consumer,
            options=options,
            transactions=self._transactions,
            recording=self._recording,
            stats=self.stats,
        )

    async def applied(self, consumer: str, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Which of these (subject, key) pairs that consumer has applied.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        async with self._transactions.reading() as connection:
            return set(await self._recording.find(connection, consumer, keys))

    async def prune(self, broker: StreamBroker, *, stream: str, consumer: str, outbox: Outbox | None = None) -> int:
        """Forget keys whose message cannot come again; how many. To be called now and then, by anybody.

        A key goes when it is older than ``keep``, its message is gone from the stream, and neither a dead letter of
        that consumer nor an unsettled row of ``outbox`` has it; a stream that never forgets has its keys kept as well.
        A thousand go at a time, and whoever wants to write has a turn in between.

        Raises:
            InvalidOption: with ``outbox``, and a stream that renames what it is sent (``subject_transform``).
            DatabaseUnavailable: it cannot be reached; what was removed stays removed.
            ConnectionLost, RequestTimeout, PermissionDenied: the stream could not be asked.
        """
        pruning = Pruning(self._transactions, keep=self.keep, stream=stream, consumer=consumer)
        async for removed in pruning.run(broker, outbox):
            self.stats.pruned += removed
        return pruning.removed

    async def aclose(self) -> None:
        """Let go of the connections; an engine that was handed in stays open. Idempotent."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
