"""The link over nats-py: when to give up, what an error means, what happens to frames around a reconnect."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from broker.backends.nats import complaints
from broker.backends.nats.identity import Identity
from broker.backends.nats.lasting import LastingLink
from broker.backends.nats.natspy.driver import GiveUp, NatsPy, Steering
from broker.backends.nats.patience import LINGER, PARTING, REFUSALS
from broker.contracts.errors import ConnectError

if TYPE_CHECKING:
    from broker.backends.nats.addresses import Address
    from broker.backends.nats.contract import LinkEvents
    from broker.contracts.options import ConnectOptions
    from broker.contracts.status import Stats

_log: Final = logging.getLogger("broker.nats")
_EXTRAS: Final = {"nkeys": 'creds= needs nkeys: pip install "gamebroker[nkeys]"'}
"""Modules that only some ways to connect need, and how to get them."""


class NatsPyLink(LastingLink, Steering):
    """A link whose driver is nats-py.

    Args:
        options: where and as whom to connect.
        address: the same, taken apart.
        events: who is told.
        stats: where dropped messages are counted.
    """

    def __init__(self, options: ConnectOptions, address: Address, events: LinkEvents, stats: Stats) -> None:
        super().__init__(options, events, stats)
        self._address = address
        self._driver = NatsPy(self, tls=address.tls and not address.web)
        self._failures: list[str] = []
        self._refusals = 0
        self._was_up = False

    @property
    def server(self) -> str:
        """See ``LastingLink``."""
        return self._driver.server

    # -- connecting ---------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """See ``Link``."""
        attempt = asyncio.get_running_loop().create_task(self._attempt())
        try:
            await asyncio.wait({attempt}, timeout=self._options.connect_timeout)
            if attempt.done():
                attempt.result()
            else:
                self._failures.append(f"no answer in {self._options.connect_timeout:g} s")
                attempt.cancel()
                self._driver.abort()
                await asyncio.wait({attempt}, timeout=PARTING)
            if not self._driver.is_connected:
                raise self._failure()  # noqa: TRY301 - leaves through the clean-up below
        except BaseException:
            self.closed = True
            await asyncio.shield(self._spawn(self._give_up(attempt)))
            raise
        self._opened()

    async def _give_up(self, attempt: asyncio.Task[None]) -> None:
        """Hang up after the attempt is over: cancelling it may come to nothing, and then it connects."""
        attempt.cancel()
        await asyncio.wait({attempt}, timeout=PARTING)
        await self._driver.hang_up(0)

    async def _attempt(self) -> None:
        try:
            if self._options.creds is not None:  # nats-py looks at them only when a server asks
                await Identity(self._address, self._options.creds).fields(nonce="")
            await self._driver.open(self._options, self._address)
        except GiveUp:
            return
        except ImportError as exc:
            self._failures.append(_EXTRAS.get(str(exc.name), str(exc)))
        except Exception as exc:  # noqa: BLE001 - whatever the driver raises becomes ours at this border
            self._failures.append(str(exc) or type(exc).__name__)

    def _failure(self) -> ConnectError:
        told = "; ".join(dict.fromkeys(self._failures))
        if self._refusals:
            return Identity(self._address, self._options.creds).refused(told)
        return ConnectError(f"could not connect to {self._address}: {told}")

    def attempt_failed(self, text: str) -> None:
        """See ``Steering``."""
        if self._up or self.closed:
            return
        refused = complaints.is_refusal(text)
        if not self._was_up:
            self._failures.append(text)
            self._refusals += refused
            if refused or len(self._failures) >= self._driver.pool_size:
                raise GiveUp
            return
        self._trouble.note(self._driver.server, text)
        self._refusals = self._refusals + 1 if refused else 0
        if self._refusals >= max(REFUSALS, self._driver.pool_size):
            self._refuse()

    def _opened(self) -> None:
        self._up = self._was_up = True
        self._refusals = 0
        self.max_payload = self._driver.max_payload
        self.clustered, self.server_id = self._driver.clustered, self._driver.server_id
        self.jetstream = self._driver.has_jetstream
        self._outbound.attach(self._driver.pipe)

    async def force_reconnect(self) -> None:
        """See ``Link``."""
        await self._catch_up()
        if self._up:
            # From here on frames are kept for the next server: what was sent meanwhile is processed before we go.
            self.broken("left")
            await self._last_word()
        if not self._up and not self.closed:
            await self._driver.leave()

    async def _part(self) -> None:
        """See ``LastingLink``."""
        await self._driver.hang_up(LINGER)

    # -- what the driver tells ----------------------------------------------------------------------------------------

    def complained(self, text: str) -> None:
        """See ``Steering``."""
        if complaints.is_refusal(text):
            self._refuse()
        else:
            self._complain(text)

    def broken(self, why: str) -> None:
        """See ``Steering``."""
        if self._up:
            self._lost(why)

    def restored(self) -> None:
        """See ``Steering``."""
        self._opened()
        self._back()

    def lame_duck(self) -> None:
        """See ``Steering``. Go while the server still answers, if there is somewhere to go."""
        if self._driver.pool_size > 1:
            _log.info("%s is shutting down, moving to another server", self._driver.server)
            self._spawn(self.force_reconnect())

    # -- what the driver is told --------------------------------------------------------------------------------------

    def _say(self, frame: bytes) -> None:
        """See ``LastingLink``."""
        self._driver.pipe.write(frame)

    def _probe(self, answered: asyncio.Future[bool]) -> None:
        """See ``LastingLink``."""
        self._driver.ping(answered)
