"""``python -m services.demo.crowd``: simulated players and a spectator of every room, at a gateway in their process.

A process of its own, so that what it measures is the way of a frame and not the demo's screen.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from broker import Broker
from services.connection import connection
from services.events import Command, CommandNumbers
from services.gateway.gateway import Gateway
from services.history import History
from services.process import add_process_options, run_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.events import View
    from services.gateway.sessions import Session

_STEP: Final = 0.02
_GONE_AFTER: Final = 0.5
_SENT_TWICE: Final = 0.02
_FORGED: Final = 0.005
_SPECTATOR: Final = "spectator"


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` of all do not exceed; 0.0 when there are none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class Player:
    """Sends commands at random moments: a few of them twice, and now and then one in another player's name."""

    def __init__(self, name: str, others: Sequence[str], rate: float, dice: random.Random) -> None:
        self.name = name
        self._others = others
        self._rate = rate
        self._dice = dice
        self._numbers = CommandNumbers()
        self._tick = 0
        self._next = dice.expovariate(rate)

    def see(self, view: View) -> None:
        """Take in the newest view of the room."""
        self._tick = view.tick
        self._numbers.seen(view.epoch, view.acked(self.name))

    def due(self, now: float) -> list[Command]:
        """What the player sends now, ``now`` seconds after it joined."""
        sent: list[Command] = []
        while self._next <= now:
            self._next += self._dice.expovariate(self._rate)
            forged = self._dice.random() < _FORGED
            command = Command(
                player=self._dice.choice(self._others) if forged and self._others else self.name,
                cmd_seq=self._numbers.next(),
                client_tick=self._tick,
                kind=self._dice.choice(("move", "fire")),
                dx=self._dice.choice((-1, 0, 1)),
                dy=self._dice.choice((-1, 0, 1)),
                target=self._dice.choice(self._others) if self._others else "",
            )
            sent += [command] * (2 if self._dice.random() < _SENT_TWICE else 1)
        return sent


class _Stand:
    """A room as the crowd sees it: its spectator and, from the first view on, its players with their sessions."""

    def __init__(self) -> None:
        self.seen_at = 0.0
        self.joined = 0.0
        self.players: list[tuple[Player, Session]] = []


class Crowd:
    """The spectators and players of all rooms, at one gateway."""

    def __init__(self, gateway: Gateway, rooms: Sequence[str], *, rate: float, dice: random.Random) -> None:
        self._gateway = gateway
        self._rate = rate
        self._dice = dice
        self._encode = msgspec.json.Encoder().encode
        self._stands = {room: _Stand() for room in rooms}
        self._hops = array("d")
        self._reported = 0
        self.sent = 0
        for room in rooms:
            gateway.join(room, _SPECTATOR, self._see)

    def _see(self, view: View) -> None:
        self._hops.append((time.time_ns() - view.sent) / 1e9)
        stand = self._stands[view.room]
        stand.seen_at = time.monotonic()
        if not stand.players:
            self._join(view, stand)

    def _join(self, view: View, stand: _Stand) -> None:
        """Players join a room with its first frame."""
        stand.joined = time.monotonic()
        names = view.players
        for name in names:
            player = Player(name, [other for other in names if other != name], self._rate, self._dice)
            stand.players.append((player, self._gateway.join(view.room, name, player.see)))
            player.see(view)

    def play(self) -> None:
        """Send what is due. Players of a room that shows nothing any more have left."""
        now = time.monotonic()
        for stand in self._stands.values():
            if now - stand.seen_at > _GONE_AFTER:
                continue
            for player, session in stand.players:
                for command in player.due(now - stand.joined):
                    session.command(self._encode(command))
                    self.sent += 1

    def totals(self, *, final: bool = False) -> dict[str, object]:
        """What was seen so far; hop times of the time since the last call, or of all of it when ``final``."""
        hops = sorted(self._hops if final else self._hops[self._reported :])
        self._reported = len(self._hops)
        return {
            "commands": self.sent,
            "hop_p50": quantile(hops, 0.5),
            "hop_p99": quantile(hops, 0.99),
            "hop_max": hops[-1] if hops else 0.0,
            "gateway": self._gateway.totals(),
        }


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with History(options.stats) as history:
        async with Broker.connect(**connection(options), name="crowd") as broker:
            gateway = Gateway(broker, "crowd")
            crowd = Crowd(gateway, options.rooms.split(","), rate=options.rate, dice=random.Random(options.seed))
            running = asyncio.ensure_future(gateway.run(stop))
            ready = asyncio.ensure_future(gateway.ready.wait())
            try:
                await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
                print("crowd ready", flush=True)
                await _play(crowd, history, running)
            finally:
                stop.set()
                ready.cancel()
                await running
            await broker.drain()
            history.write("final", **crowd.totals(final=True))


async def _play(crowd: Crowd, history: History, running: asyncio.Future[None]) -> None:
    report_at = time.monotonic() + 1.0
    while not running.done():
        crowd.play()
        if time.monotonic() >= report_at:
            report_at += 1.0
            history.write("totals", **crowd.totals())
        await asyncio.wait({running}, timeout=_STEP)


def main() -> int:
    """Run the process; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.demo.crowd", description=__doc__)
    add_process_options(parser)
    parser.add_argument("--rooms", required=True, help="ids, separated by commas")
    parser.add_argument("--rate", type=float, default=5.0, help="commands per player and second")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--stats", type=Path, required=True, metavar="FILE", help="append a JSONL record to this file")
    options = parser.parse_args()
    return run_process(lambda stop: _serve(options, stop), name="crowd", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
