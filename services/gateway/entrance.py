"""For players whose client is a NATS client: their commands come on a subject that only they may publish to."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from broker import InvalidSubject
from services.events import gateway_input, gateway_inputs, gateway_output
from services.gateway.sessions import GatewayFull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker import Broker, Message
    from services.events import View
    from services.gateway.gateway import Gateway
    from services.gateway.sessions import Session

QUIET: Final = 30.0
"""Seconds without a command after which a player has left."""


class Entrance:
    """Joins a player with their first command on ``gateway.<name>.in.<room>.<player>``; one who is quiet has left.

    What the player sees goes to ``gateway.<name>.out.<room>.<player>``: the whole state, newest first.

    Attributes:
        turned_away: commands of players for whom there was no place, whose id is none, or who came in elsewhere.
        quiet: players who left by saying nothing.
    """

    def __init__(self, broker: Broker, gateway: Gateway, name: str, *, quiet_after: float = QUIET) -> None:
        self.turned_away = 0
        self.quiet = 0
        self._broker = broker
        self._gateway = gateway
        self._name = name
        self._quiet_after = quiet_after
        self._players: dict[str, _Client] = {}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Take commands inside the ``async with`` block.

        Raises:
            ConnectionLost, PermissionDenied: it could not subscribe.
        """
        commands = await self._broker.subscribe(gateway_inputs(self._name), self._take)
        sweeping = asyncio.ensure_future(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.wait({sweeping})
            await commands.unsubscribe()

    def _take(self, message: Message) -> None:
        client = self._players.get(message.subject)
        if client is None:
            *_, room, player = message.subject.split(".")
            try:
                client = self._join(room, player)
            except (GatewayFull, InvalidSubject):
                self.turned_away += 1
                return
        client.heard = time.monotonic()
        if client.session.command(message.data) is None:
            # The player is here by another connection. Who speaks again takes the place back.
            self.turned_away += 1
            del self._players[message.subject]

    def _join(self, room: str, player: str) -> _Client:
        output = gateway_output(self._name, room, player)

        def see(view: View) -> None:
            self._broker.publish_nowait(output, {"epoch": view.epoch, "tick": view.tick, "state": view.state})

        client = _Client(self._gateway.join(room, player, see))
        self._players[gateway_input(self._name, room, player)] = client
        return client

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._quiet_after / 4)
            for subject, client in tuple(self._players.items()):
                if time.monotonic() - client.heard > self._quiet_after:
                    del self._players[subject]
                    client.session.leave()
                    self.quiet += 1


class _Client:
    __slots__ = ("heard", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.heard = time.monotonic()
