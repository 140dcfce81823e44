"""The players who are here: who is in which room, and who sees its frames. No ``await``, no clock and no broker."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.events import View
    from services.gateway.door import Door, Passing

log = logging.getLogger("services.gateway")


class GatewayFull(BrokerError):
    """The gateway has as many players as it takes; send this one to another gateway."""


class Session:
    """One player in one room, at this gateway. Made by ``Gateway.join``."""

    def __init__(self, sessions: Sessions, door: Door, room: str, player: str, see: Callable[[View], object]) -> None:
        self.room = room
        self.player = player
        self.see = see
        self._sessions = sessions
        self._door = door

    def command(self, data: bytes) -> Passing | None:
        """Take a command as the player's client sent it; ``None`` when the session is over.

        Whose it is, is known from the session: what the command says of itself is only compared.
        """
        if not self._sessions.holds(self):
            return None
        return self._door.offer(self.room, self.player, data)

    def leave(self) -> None:
        """Neither send nor see any more. Idempotent."""
        self._sessions.remove(self)


class Sessions:
    """All sessions, by room.

    Attributes:
        errors: of ``see`` functions; one that raises costs its own player that frame only.
    """

    def __init__(self, *, limit: int) -> None:
        self.errors = 0
        self._limit = limit
        self._count = 0
        self._rooms: dict[str, dict[str, Session]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, session: Session) -> None:
        """Add one; an older session of the same player in the same room is over: the newest connection is theirs.

        Raises:
            GatewayFull: there are as many as there may be.
        """
        players = self._rooms.get(session.room, {})
        if session.player not in players:
            if self._count >= self._limit:
                raise GatewayFull(f"this gateway takes {self._limit} players; {session.player!r} needs another one")
            self._count += 1
            self._rooms[session.room] = players
        players[session.player] = session

    def remove(self, session: Session) -> None:
        """Remove it, if it is still there."""
        if self.holds(session):
            players = self._rooms[session.room]
            del players[session.player]
            self._count -= 1
            if not players:
                del self._rooms[session.room]

    def holds(self, session: Session) -> bool:
        """Whether it is the player's session now."""
        return self._rooms.get(session.room, {}).get(session.player) is session

    def show(self, view: View) -> int:
        """Give every player of the room the view; how many there were."""
        here = tuple(self._rooms.get(view.room, {}).values())
        for session in here:
            try:
                session.see(view)
            except Exception:
                self.errors += 1
                log.exception("showing a frame of %s to %s failed", view.room, session.player)
        return len(here)
