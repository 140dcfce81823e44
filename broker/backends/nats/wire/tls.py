"""From an address to a greeting: the socket, INFO and TLS, in the order the server wants them."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from broker.backends.nats.wire.connection import HungUp

if TYPE_CHECKING:
    from broker.backends.nats.wire.connection import Connection


class Security:
    """Whether and how connections are encrypted.

    Args:
        context: with the authorities and the certificate to use; ``None`` takes the system's.
        required: refuse a server that does not offer TLS.
        first: shake hands before INFO, for servers that want it so; implies ``required``.
    """

    def __init__(self, context: ssl.SSLContext | None, *, required: bool, first: bool) -> None:
        self._context = context
        self._required = required or first
        self._first = first

    async def open(self, connection: Connection) -> bool:
        """Connect and hear the greeting; returns whether TLS is there.

        Raises:
            OSError, HungUp, ProtocolViolation: it did not come to that.
        """
        loop = asyncio.get_running_loop()
        server = connection.server
        if self._first:
            await loop.create_connection(
                lambda: connection, server.host, server.port, ssl=self._chosen(), server_hostname=server.tls_name
            )
            await connection.greeted()
            return True
        await loop.create_connection(lambda: connection, server.host, server.port)
        info = await connection.greeted()
        if not (info.tls_required or self._required):
            return False
        if not (info.tls_required or info.tls_available):
            raise HungUp("the server does not offer TLS")
        connection.conversation.secure()
        plain = connection.transport
        try:
            secured = await loop.start_tls(plain, connection, self._chosen(), server_hostname=server.tls_name)
        except BaseException:
            plain.abort()
            raise
        connection.use(secured)
        return True

    def _chosen(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context
