"""A gateway: commands of local players out, one message per room and tick; frames in, to each local player."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker import PayloadTooLarge, StateStats, Status, Subject
from services.events import BATTLE_STATES, View, battle_batch
from services.gateway.door import TURNS, Door
from services.gateway.sessions import Session, Sessions
from services.pacing import Lateness, Pacer, drive

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Broker, StateReader

log = logging.getLogger("services.gateway")

MOST_PLAYERS: Final = 20_000
_BATCH_VERSION: Final = 1
_NS: Final = 1_000_000_000


class Gateway:
    """Where game clients' connections come together. ``run`` it; ``join`` a player when their connection is known.

    Attributes:
        door: what became of local players' commands.
        batches: messages sent to rooms.
        unsent: commands that were not sent because there was no connection (late ones are worth nothing) or because
            the server takes no message of that size.
        shown: frames given to players.
        lateness: of its own ticks.
        pacer: of its turns, ``TURNS`` in a tick.
        ready: set when frames and commands flow.
    """

    def __init__(self, broker: Broker, name: str, *, tick_rate: float = 30.0, most_players: int = MOST_PLAYERS) -> None:
        self.door = Door(tick_rate=tick_rate)
        self.batches = 0
        self.unsent = 0
        self.shown = 0
        self.lateness = Lateness()
        self.ready = asyncio.Event()
        start = time.monotonic() + random.uniform(0, 1 / tick_rate)
        self.pacer = Pacer(tick_rate * TURNS, start, catch_up=TURNS)
        self._start_ns = time.time_ns() + round((start - time.monotonic()) * 1e9)
        self._broker = broker
        self._name = Subject.token(name)
        self._sessions = Sessions(limit=most_players)
        self._encode = msgspec.json.Encoder().encode
        self._reader: StateReader | None = None

    def join(self, room: str, player: str, see: Callable[[View], object]) -> Session:
        """Have the player take part in the room from now on.

        Whoever calls has made sure that it is this player. A second session of the same player in the same room ends
        the first one.

        Args:
            room: the room's id.
            player: the player's id.
            see: called with every newest view of the room, inline: it must not block. A connection that is slower
                than the room takes a ``Newest``.

        Raises:
            InvalidSubject: an id that cannot stand in a subject.
            GatewayFull: it has as many players as it takes.
        """
        session = Session(self._sessions, self.door, Subject.token(room), Subject.token(player), see)
        self._sessions.add(session)
        return session

    async def run(self, stop: asyncio.Event) -> None:
        """Carry commands and frames until ``stop``; what players have sent by then still goes out.

        Raises:
            ConnectionLost, PermissionDenied: it could not subscribe to the rooms' frames.
            BrokerClosed, Unauthorized: the connection will not come back.
        """
        async with self._broker.watch_state(BATTLE_STATES) as self._reader:
            following = asyncio.ensure_future(self._follow(self._reader))
            self.ready.set()
            try:
                await drive(
                    self.pacer,
                    lambda tick: self._turn(tick) and not stop.is_set() and not following.done(),
                    lateness=self.lateness,
                    clock=time.monotonic,
                )
                while len(self.door):  # a burst takes several messages
                    for turn in range(TURNS):
                        self._send(turn, time.time_ns())
                if following.done():
                    following.result()
            finally:
                following.cancel()
                await asyncio.wait({following})

    def totals(self) -> dict[str, Any]:
        """What was done so far, for a record."""
        frames = StateStats() if self._reader is None else self._reader.stats
        return {
            "received": frames.received,
            "lost": frames.lost,
            "superseded": frames.superseded,
            "stale": frames.stale,
            "sessions": len(self._sessions),
            "passings": {passing.value: count for passing, count in self.door.counts.items()},
            "batches": self.batches,
            "unsent": self.unsent,
            "shown": self.shown,
            "errors": self._sessions.errors,
            "skipped": self.pacer.skipped,
            "late_p99": self.lateness.quantile(0.99),
            "late_max": self.lateness.max,
        }

    def _turn(self, tick: int) -> bool:
        self._send(tick, self._start_ns + round((self.pacer.due_at(tick) - self.pacer.start) * _NS))
        return True

    def _send(self, turn: int, due: int) -> None:
        for room, commands in self.door.take(turn):
            if self._broker.status is not Status.CONNECTED:
                self.unsent += len(commands)
                continue
            # As ``CommandBatch``: the commands are already bytes.
            body = self._encode({"v": _BATCH_VERSION, "due": due, "commands": commands})
            try:
                self._broker.publish_nowait(battle_batch(room, self._name), body)
            except PayloadTooLarge as exc:  # a server set up for less than a full batch: the other rooms go on
                log.warning("%d commands for %s were not sent: %s", len(commands), room, exc)
                self.unsent += len(commands)
            else:
                self.batches += 1

    async def _follow(self, reader: StateReader) -> None:
        async for update in reader:
            view = View(
                room=update.subject.split(".")[1],
                epoch=update.epoch,
                tick=update.tick,
                sent=round(update.published * _NS),
                state=update.state,
            )
            self.shown += self._sessions.show(view)
