"""The link on our own wire: which connection is in use, and how we come from one to the next."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.backends.nats import complaints
from broker.backends.nats.lasting import LastingLink
from broker.backends.nats.patience import LINGER, PARTING, PING_EVERY
from broker.backends.nats.wire.dial import Dialer, Host, told
from broker.contracts.errors import ConnectionLost, InvalidOption

if TYPE_CHECKING:
    from broker.backends.nats.addresses import Address
    from broker.backends.nats.contract import LinkEvents
    from broker.backends.nats.wire.connection import Connection
    from broker.backends.nats.wire.info import ServerInfo
    from broker.contracts.options import ConnectOptions
    from broker.contracts.status import Stats

_log: Final = logging.getLogger("broker.nats")
_SPREAD: Final = 0.2
"""Seconds over which the clients of a server that is about to stop move; the pause between tries, too."""
_EXPIRED: Final = "expired"


class WireLink(LastingLink, Host):
    """A link without a client library.

    Args:
        options: where and as whom to connect; ``creds`` may also be a file with an nkey seed alone.
        address: the same, taken apart.
        events: who is told.
        stats: where dropped messages are counted.

    Raises:
        InvalidOption: websockets are not for this link.
    """

    def __init__(self, options: ConnectOptions, address: Address, events: LinkEvents, stats: Stats) -> None:
        if address.web:
            raise InvalidOption("url: ws:// and wss:// need link='nats-py'", option="url")
        super().__init__(options, events, stats)
        self._dialer = Dialer(options, address, self)
        self._connection: Connection | None = None
        self._finding: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[None] | None = None

    @property
    def server(self) -> str:
        """See ``LastingLink``."""
        return "" if self._connection is None else str(self._connection.server)

    # -- from one connection to the next ------------------------------------------------------------------------------

    async def connect(self) -> None:
        """See ``Link``."""
        try:
            connection = await self._dialer.first()
        except BaseException:
            self.closed = True
            raise
        if self.closed:
            connection.abort()
            raise ConnectionLost("closed while connecting")
        self._opened(connection)

    def opening(self, connection: Connection) -> bytes:
        """See ``Host``."""
        self._connection = connection
        return self.subscriptions()

    def _opened(self, connection: Connection) -> None:
        info = connection.conversation.info
        assert info is not None
        self._up = True
        connection.beat(PING_EVERY)
        self._outbound.attach(connection)
        self._heed(connection, info)

    async def _find(self) -> None:
        connection = await self._dialer.again(self._trouble)
        if connection is None:
            self._refuse()
            return
        self._opened(connection)
        self._back()

    async def _move(self, leaving: Connection) -> None:
        """From a server that is about to stop to another: found first, so that hardly anything waits meanwhile."""
        while self._uses(leaving):
            await asyncio.sleep(random.uniform(0, _SPREAD))
            found = await self._dialer.beside(leaving)
            if found is None:
                continue
            try:
                await self._catch_up()
                if self._uses(leaving) and found.gone is None:
                    await self._hand_over(leaving, found)
            finally:
                if found is not self._connection:
                    found.abort()

    def _uses(self, connection: Connection) -> bool:
        return self._up and not self.closed and connection is self._connection

    async def _hand_over(self, leaving: Connection, found: Connection) -> None:
        """Nothing more goes to the old server; when it has processed what went before, the new one takes over."""
        self._outbound.detach()
        try:
            await self._last_word()
        finally:
            if self._uses(leaving):
                self._switch(leaving, leaving if found.gone else found)

    def _switch(self, leaving: Connection, found: Connection) -> None:
        """Use the one found; what was in flight is unknown to its callers, as at any break."""
        self._fail_pings("moved to another server")
        self._tell(self._events.on_lost)
        if found is not leaving:
            self._connection = found
            self._spawn(leaving.close(LINGER, PARTING))
            found.write(self.subscriptions())
            _log.info("moved to %s", self.server)
        self._opened(found)
        self._tell(self._events.on_restored)

    async def force_reconnect(self) -> None:
        """See ``Link``."""
        connection = self._connection
        await self._catch_up()
        if self._up and connection is not None and connection is self._connection:
            connection.leave()

    async def _part(self) -> None:
        """See ``LastingLink``."""
        looking = {each for each in (self._finding, self._moving) if each is not None and not each.done()}
        for task in looking:
            task.cancel()
        if looking:
            await asyncio.wait(looking, timeout=PARTING)
        if self._connection is not None:
            await self._connection.close(LINGER, PARTING)

    # -- what the connection tells ------------------------------------------------------------------------------------

    def on_info(self, connection: Connection, info: ServerInfo) -> None:
        """See ``Owner``."""
        self._dialer.pool.learn(info.connect_urls, connection.server, connection.peer)
        if self._uses(connection):
            self._heed(connection, info)

    def _heed(self, connection: Connection, info: ServerInfo) -> None:
        """A server that is about to stop is left while it still answers, if there is another."""
        self.max_payload, self.server_id = info.max_payload, info.server_id
        self.clustered, self.jetstream = bool(info.cluster), info.jetstream
        if info.lame_duck and len(self._dialer.pool) > 1 and (self._moving is None or self._moving.done()):
            _log.info("%s is shutting down, moving to another server", self.server)
            self._moving = self._spawn(self._move(connection))

    def on_error(self, connection: Connection, text: str) -> None:
        """See ``Owner``. What is said while a connection is being opened is the dialer's, but for our subscriptions."""
        if connection is not self._connection:
            return
        if not complaints.is_refusal(text):
            if self._up or self._wanted:
                self._complain(text)
        elif self._up and not (self._dialer.identity.renewable and _EXPIRED in text.lower()):
            self._refuse()

    def on_gone(self, connection: Connection) -> None:
        """See ``Owner``."""
        if self._uses(connection):
            self._lost("" if connection.gone is None else told(connection.gone))
            self._finding = self._spawn(self._find())

    # -- what the connection is told ----------------------------------------------------------------------------------

    def _say(self, frame: bytes) -> None:
        """See ``LastingLink``."""
        if self._connection is not None:
            self._connection.write(frame)

    def _probe(self, answered: asyncio.Future[bool]) -> None:
        """See ``LastingLink``."""
        if self._connection is not None:
            self._connection.conversation.ping(partial(_answer, answered))


def _answer(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(True)
