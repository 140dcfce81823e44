"""The NATS backend: core, appends, administration and consumers of one session, as the seam names them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.backends.nats import addresses
from broker.backends.nats.admin import Admin
from broker.backends.nats.api import Api
from broker.backends.nats.appending import Appender
from broker.backends.nats.batching import BatchAppender
from broker.backends.nats.consumers import Consumers
from broker.backends.nats.core import NatsCore
from broker.backends.nats.counters import counter_value
from broker.backends.nats.direct import Direct
from broker.backends.nats.durability import durability_of
from broker.backends.nats.embedded import embedded_server
from broker.backends.nats.exhausted import NatsExhausted
from broker.backends.nats.lanes import Routes
from broker.backends.nats.last_id import append_expecting_id
from broker.backends.nats.session import Session
from broker.contracts.backend import StreamBackend
from broker.contracts.durability import Kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from broker.backends.nats.embedded import Server
    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.backend import DeliverySource
    from broker.contracts.envelopes import Receipt, Record, StoredMessage
    from broker.contracts.options import ConnectOptions, ConsumerOptions, StreamOptions


async def open_backend(options: ConnectOptions) -> StreamBackend:
    """A connected backend; an ``embedded://`` URL starts a server of our own first.

    Raises:
        ConnectError: nobody answered within ``options.connect_timeout``.
        Unauthorized: the server refused the credentials.
        InvalidOption: the URL is malformed.
    """
    if not options.url.startswith(addresses.EMBEDDED):
        return NatsBackend(await Session.open(options), None)
    server, reachable = await embedded_server(options)
    try:
        return NatsBackend(await Session.open(reachable), server)
    except BaseException:
        await server.stop()
        raise


class NatsBackend(NatsCore, StreamBackend):
    """Both tiers over one session."""

    def __init__(self, session: Session, server: Server | None) -> None:
        super().__init__(session)
        self._server = server
        api = Api(session, self)
        routes = Routes()
        self._admin = Admin(api, routes)
        appender = Appender(session, routes)
        self._append, self._look_up = appender.append, appender.look_up
        self._append_atomic = BatchAppender(session).append
        self._direct = Direct(session, self, self._admin)
        self._consumers = Consumers(session, self, api, self._admin)
        self.exhausted = NatsExhausted(self, self._admin)

    async def close(self) -> None:
        """See ``StreamBackend``."""
        server, self._server = self._server, None
        try:
            await super().close()
        finally:
            if server is not None:
                await server.stop()

    def append(self, record: Record, *, timeout: float) -> asyncio.Future[Receipt]:
        """See ``StreamBackend``."""
        if record.expect is not None and record.expect.last_msg_id is not None:
            return asyncio.ensure_future(append_expecting_id(self._admin, self._append, record, timeout))
        return self._append(record, timeout=timeout)

    def append_atomic(self, records: Sequence[Record], *, timeout: float) -> asyncio.Future[Sequence[Receipt]]:
        """See ``StreamBackend``."""
        return self._append_atomic(records, timeout=timeout)

    async def look_up(self, record: Record, *, timeout: float) -> Receipt | None:
        """See ``StreamBackend``."""
        return await self._look_up(record, timeout=timeout)

    async def durability(self, monitoring: Sequence[str]) -> Kept:
        """See ``TellsDurability``."""
        if self._server is not None:
            return Kept("fsync", told=True, why="a server of our own syncs every write")
        return await durability_of(monitoring, lambda: self._session.link.server_id)

    async def find_stream(self, subject: str) -> str | None:
        """See ``StreamBackend``."""
        return await self._admin.find_stream(subject)

    async def open_consumer(self, options: ConsumerOptions) -> DeliverySource:
        """See ``StreamBackend``."""
        return await self._consumers.open(options)

    async def create_stream(self, options: StreamOptions) -> StreamInfo:
        """See ``StreamBackend``."""
        return await self._admin.create_stream(options)

    async def update_stream(self, options: StreamOptions) -> StreamInfo:
        """See ``StreamBackend``."""
        return await self._admin.update_stream(options)

    async def stream_info(self, name: str) -> StreamInfo:
        """See ``StreamBackend``."""
        return await self._admin.stream_info(name)

    def list_streams(self, subject: str | None = None) -> AsyncIterator[StreamInfo]:
        """See ``StreamBackend``."""
        return self._admin.list_streams(subject)

    def list_stream_names(self, subject: str | None = None) -> AsyncIterator[str]:
        """See ``StreamBackend``."""
        return self._admin.list_stream_names(subject)

    async def delete_stream(self, name: str) -> None:
        """See ``StreamBackend``."""
        await self._admin.delete_stream(name)

    async def purge_stream(self, name: str, *, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """See ``StreamBackend``."""
        return await self._admin.purge_stream(name, subject=subject, up_to=up_to, keep=keep)

    async def get_message(
        self, stream: str, *, sequence: int | None, last_of: str | None, fresh: bool = False
    ) -> StoredMessage | None:
        """See ``StreamBackend``."""
        if fresh:
            return await self._admin.get_message(stream, sequence=sequence, last_of=last_of)
        return await self._direct.get_message(stream, sequence=sequence, last_of=last_of)

    def get_last_many(
        self, stream: str, subjects: Sequence[str], *, up_to: int | datetime | None
    ) -> AsyncIterator[StoredMessage]:
        """See ``StreamBackend``."""
        return self._direct.get_last_many(stream, subjects, up_to)

    def get_many(
        self, stream: str, *, start: int, subject: str | None, limit: int, max_bytes: int | None
    ) -> AsyncIterator[StoredMessage]:
        """See ``StreamBackend``."""
        return self._direct.get_many(stream, start=start, subject=subject, limit=limit, max_bytes=max_bytes)

    async def counter(self, stream: str, subject: str, *, sequence: int | None = None) -> int | None:
        """See ``StreamBackend``."""
        return await counter_value(self._admin, stream, subject, sequence)

    async def delete_message(self, stream: str, sequence: int, *, erase: bool = False) -> bool:
        """See ``StreamBackend``."""
        return await self._admin.delete_message(stream, sequence, erase=erase)

    async def create_consumer(self, options: ConsumerOptions) -> ConsumerInfo:
        """See ``StreamBackend``."""
        return await self._consumers.create(options)

    async def update_consumer(self, options: ConsumerOptions) -> ConsumerInfo:
        """See ``StreamBackend``."""
        return await self._consumers.update(options)

    async def consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        """See ``StreamBackend``."""
        return await self._admin.consumer_info(stream, name)

    def list_consumers(self, stream: str) -> AsyncIterator[ConsumerInfo]:
        """See ``StreamBackend``."""
        return self._admin.list_consumers(stream)

    async def delete_consumer(self, stream: str, name: str) -> None:
        """See ``StreamBackend``."""
        await self._admin.delete_consumer(stream, name)

    def list_consumer_names(self, stream: str) -> AsyncIterator[str]:
        """See ``StreamBackend``."""
        return self._admin.list_consumer_names(stream)

    async def pause_consumer(self, stream: str, name: str, *, until: datetime | None) -> bool:
        """See ``StreamBackend``."""
        return await self._admin.pause_consumer(stream, name, until)

    async def reset_consumer(self, stream: str, name: str, *, sequence: int | None) -> int:
        """See ``StreamBackend``."""
        return await self._admin.reset_consumer(stream, name, sequence)

    async def unpin_consumer(self, stream: str, name: str, group: str) -> None:
        """See ``StreamBackend``."""
        await self._admin.unpin_consumer(stream, name, group)
