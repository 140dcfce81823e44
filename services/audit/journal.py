"""The journal: appends to the chains in its caller's transaction, and reads them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from services.audit.chain import START, BrokenChain, Head, Link, Verification
from services.audit.tables import HEAD, RECORD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_PAGE: Final = 1000


class RecordConflict(ValueError):
    """Another record is there under that id; the first one stands, and trying again will not help."""


@dataclass(frozen=True, slots=True)
class Told:
    """A record as it came, and where the stream had it."""

    record_id: str
    body: bytes
    stream_seq: int


class AuditJournal:
    """The chains of one database.

    Args:
        engine: of it.
        clock: nanoseconds since the Unix epoch.
    """

    def __init__(self, engine: AsyncEngine, clock: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._clock = clock
        self._insert: Any = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert

    async def append(self, tx: AsyncConnection, source: str, told: Sequence[Told]) -> None:
        """Append records to their service's chain, in that order. One that is there already changes nothing.

        Other appenders to the chain wait until the transaction has ended.

        Raises:
            RecordConflict: another one is there under the id of one of them.
        """
        head, row = await self._lock(tx, source), RECORD.c
        ids = {each.record_id for each in told}
        query = select(row.record_id, row.body).where(row.source == source, row.record_id.in_(ids))
        known = {record_id: bytes(body) for record_id, body in await tx.execute(query)}
        links = []
        for each in told:
            there = known.get(each.record_id)
            if there is None:
                known[each.record_id] = each.body
                link = head.follow(**asdict(each), recorded_at=self._clock())
                head = Head(source, link.seq, link.hash)
                links.append(asdict(link))
            elif there != each.body:
                raise RecordConflict(f"{source} told another record {each.record_id}")
        if links:
            await tx.execute(insert(RECORD), links)
            await tx.execute(update(HEAD).where(HEAD.c.source == source).values(seq=head.seq, hash=head.hash))

    async def heads(self) -> dict[str, Head]:
        """How far each chain goes, by its service; 0 where records are there and nothing was noted."""
        async with self._engine.connect() as connection:
            sources = await connection.execute(select(RECORD.c.source).distinct())
            found = {source: Head(source) for (source,) in sources}
            noted = [Head(*row) for row in await connection.execute(select(HEAD))]
        return found | {head.source: head for head in noted}

    async def read(self, source: str, *, after: int = 0) -> AsyncIterator[Link]:
        """A chain's records in order, some at a time."""
        while True:
            query = select(RECORD).where(RECORD.c.source == source, RECORD.c.seq > after).order_by(RECORD.c.seq)
            async with self._engine.connect() as connection:
                page = [Link(*row) for row in await connection.execute(query.limit(_PAGE))]
            for link in page:
                yield link
            if len(page) < _PAGE:
                return
            after = page[-1].seq

    async def verify(self, anchors: Iterable[Head] = ()) -> list[Head]:
        """Compute every chain anew; how far each goes. Records may be appended meanwhile.

        Args:
            anchors: heads that earlier verifications told and that were kept elsewhere.

        Raises:
            BrokenChain: the first record that is not as it was recorded.
        """
        known: dict[str, dict[int, bytes]] = {}
        for head in (*(await self.heads()).values(), *anchors):
            hashes = known.setdefault(head.source, {})
            if hashes.setdefault(head.seq, head.hash) != head.hash:
                raise BrokenChain(head.source, head.seq, "written anew: an anchor says another hash than the head")
        return [await self._verify(source, known[source]) for source in sorted(known)]

    async def _verify(self, source: str, anchors: Mapping[int, bytes]) -> Head:
        verification = Verification(source, anchors)
        async for link in self.read(source):
            verification.take(link)
        # Noted in the transaction that appends, so by now at least as far as what was read.
        async with self._engine.connect() as connection:
            noted = (await connection.execute(select(HEAD.c.seq).where(HEAD.c.source == source))).scalar()
        verification.end(noted or 0)
        return verification.head

    async def _lock(self, tx: AsyncConnection, source: str) -> Head:
        """How far the chain goes, and nobody else may append until the transaction ends."""
        first = {"source": source, "seq": 0, "hash": START}
        await tx.execute(self._insert(HEAD).on_conflict_do_nothing(), first)
        # SQLite knows no FOR UPDATE and needs none: who writes is alone.
        found = await tx.execute(select(HEAD).where(HEAD.c.source == source).with_for_update())
        return Head(*found.one())
