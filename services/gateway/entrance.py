"""For players whose client is a NATS client: their commands come on a subject that only they may publish to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from broker import InvalidSubject
from services.events import gateway_input, gateway_inputs, gateway_output
from services.gateway.door import Passing
from services.gateway.sessions import GatewayFull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker import Broker, Message
    from services.events import View
    from services.gateway.gateway import Gateway
    from services.gateway.sessions import Session

QUIET: Final = 30.0
"""Seconds without a command after which a player has left."""
ROOMS_EACH: Final = 2
"""Rooms one player may be in at a time: the next one while the last one is not left yet."""

_HEARD: Final = (Passing.PASSED, Passing.OVERFLOW)
"""What a player who is there sends; anything else keeps no place."""


class Entrance:
    """Joins a player with their first command on ``gateway.<name>.in.<room>.<player>``; one who is quiet has left.

    What the player sees goes to ``gateway.<name>.out.<room>.<player>``: the whole state, newest first. What is no
    command of that player's brings nobody in and keeps nobody in.

    Attributes:
        turned_away: commands of players for whom there was no place, who are in ``ROOMS_EACH`` other rooms, whose id
            is none, or who came in elsewhere.
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
        self._rooms: Counter[str] = Counter()

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
            client = self._let_in(message)
            if client is None:
                return
        passing = client.session.command(message.data)
        if passing in _HEARD:
            client.heard = time.monotonic()
        elif passing is None:
            # The player is here by another connection. Who speaks again takes the place back.
            self.turned_away += 1
            self._forget(message.subject)

    def _let_in(self, message: Message) -> _Client | None:
        *_, room, player = message.subject.split(".")
        if not self._gateway.door.admits(player, message.data):
            return None
        if self._rooms[player] < ROOMS_EACH:
            with suppress(GatewayFull, InvalidSubject):
                return self._join(room, player)
        self.turned_away += 1
        return None

    def _join(self, room: str, player: str) -> _Client:
        output = gateway_output(self._name, room, player)

        def see(view: View) -> None:
            self._broker.publish_nowait(output, {"epoch": view.epoch, "tick": view.tick, "state": view.state})

        client = _Client(self._gateway.join(room, player, see))
        self._players[gateway_input(self._name, room, player)] = client
        self._rooms[player] += 1
        return client

    def _forget(self, subject: str) -> None:
        player = self._players.pop(subject).session.player
        self._rooms[player] -= 1
        if not self._rooms[player]:
            del self._rooms[player]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._quiet_after / 4)
            for subject, client in tuple(self._players.items()):
                if time.monotonic() - client.heard > self._quiet_after:
                    self._forget(subject)
                    client.session.leave()
                    self.quiet += 1


class _Client:
    __slots__ = ("heard", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.heard = time.monotonic()
