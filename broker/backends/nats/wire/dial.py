"""Finding a server: the first time within a deadline, later for ever."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from abc import abstractmethod
from typing import TYPE_CHECKING, Final, Protocol

from broker.backends.nats.identity import Identity
from broker.backends.nats.parser import ProtocolViolation
from broker.backends.nats.patience import ONE_SERVER, REFUSALS
from broker.backends.nats.wire.connection import Connection, HungUp, Owner, Refused
from broker.backends.nats.wire.pool import Pool
from broker.backends.nats.wire.protocol import connect_frame
from broker.backends.nats.wire.tls import Security
from broker.contracts.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.nats.addresses import Address
    from broker.backends.nats.trouble import Trouble
    from broker.backends.nats.wire.pool import Server
    from broker.contracts.options import ConnectOptions

_log: Final = logging.getLogger("broker.nats")


class Host(Owner, Protocol):
    """Whose connections are opened."""

    @abstractmethod
    def opening(self, connection: Connection) -> bytes:
        """The frames that follow CONNECT. What is subscribed to later goes to this connection from now on."""


class Dialer:
    """Opens connections for one link."""

    def __init__(self, options: ConnectOptions, address: Address, host: Host) -> None:
        self.pool = Pool(address.urls)
        self.identity = Identity(address, options.creds)
        self._host = host
        self._address = address
        self._name = options.name
        self._echo = options.echo
        self._timeout = options.connect_timeout
        self._security = Security(options.tls, required=address.tls, first=options.tls_first)

    async def first(self) -> Connection:
        """Ask every server once, until one lets us in.

        Raises:
            Unauthorized: one of them refuses the credentials.
            ConnectError: none does, or not in time.
        """
        failures: list[str] = []
        try:
            async with asyncio.timeout(self._timeout) as clock:
                for turn, server in enumerate(self.pool.shuffled()):
                    left = (clock.when() or 0.0) - asyncio.get_running_loop().time()
                    share = max(ONE_SERVER, left / (len(self.pool) - turn))
                    try:
                        return await self._open(server, share, self._host.opening)
                    except Refused as exc:
                        raise self.identity.refused(str(exc)) from None
                    except ConnectError:
                        raise
                    except Exception as exc:  # noqa: BLE001 - whatever fails at one server, another may do
                        failures.append(f"{server}: {told(exc)}")
        except TimeoutError:
            failures.append(f"no answer in {self._timeout:g} s")
        raise ConnectError(f"could not connect to {self._address}: {'; '.join(failures)}")

    async def again(self, trouble: Trouble) -> Connection | None:
        """Ask them until one lets us in, and note why the others do not; ``None`` when they refuse us for good."""
        refusals = 0
        self.pool.lost()
        while True:
            server, wait = self.pool.choose()
            await asyncio.sleep(wait)
            share = min(max(ONE_SERVER, self._timeout), ONE_SERVER * 2 ** min(server.failures, 8))
            try:
                return await self._open(server, share, self._host.opening)
            except Refused as exc:
                refusals += 1
                trouble.note(str(server), f"refused the credentials: {exc}")
                _log.warning("%s refuses our credentials: %s", server, exc)
                if refusals >= max(REFUSALS, len(self.pool)):
                    return None
            except Exception as exc:  # noqa: BLE001 - whatever fails now may do later
                refusals = 0
                trouble.note(str(server), told(exc))
                _log.debug("%s: %s", server, told(exc))

    async def beside(self, used: Connection) -> Connection | None:
        """A connection to another server while ``used`` goes on: greeted, and nothing asked of it yet.

        ``None`` when no other lets us in now.
        """
        for server in self.pool.shuffled():
            if server is used.server:
                continue
            try:
                return await self._open(server, ONE_SERVER, _nothing_yet)
            except Exception as exc:  # noqa: BLE001 - whatever fails at one server, another may do
                _log.debug("%s: %s", server, told(exc))
        return None

    async def _open(self, server: Server, timeout: float, opening: Callable[[Connection], bytes]) -> Connection:
        connection = Connection(server, self._host)
        try:
            async with asyncio.timeout(timeout):
                tls = await self._security.open(connection)
                info = await connection.greeted()
                identity = await self.identity.fields(info.nonce)
                connection.conversation.talk()
                greeting = connect_frame(info, identity, name=self._name, echo=self._echo, tls=tls)
                greeting += opening(connection)
                await self._answered(connection, greeting, mutual=tls and info.tls_verify)
        except BaseException:
            self.pool.failed(server)
            connection.abort()
            raise
        self.pool.reached(server)
        return connection

    @staticmethod
    async def _answered(connection: Connection, greeting: bytes, *, mutual: bool) -> None:
        """A server that does not take a certificate says so, or just hangs up: in TLS 1.3 the handshake was over."""
        try:
            await connection.answered(greeting)
        except ConnectionError as exc:
            if mutual:
                raise HungUp("TLS failed: the server hung up; it wants a client certificate that it trusts") from exc
            raise


def _nothing_yet(_: Connection) -> bytes:
    return b""


def told(exc: Exception) -> str:
    """The reason in the server's or the system's words. No exception of ours or theirs quotes what we sent."""
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed: {getattr(exc, 'verify_message', None) or exc.reason or exc}"
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, ProtocolViolation):
        return f"not a NATS server: {exc}"
    if isinstance(exc, OSError) and exc.errno is not None:
        # Below zero are the resolver's numbers.
        return os.strerror(exc.errno).lower() if exc.errno > 0 else f"{exc.strerror}"
    return str(exc) or type(exc).__name__
