"""``python -m loadtest.capacity.generator``: players at a gateway, on their own schedule; started by ``step``.

It says ``ready``, then ``measuring`` when the warm-up is over, then ``measured`` with its numbers as JSON, and goes on
until SIGTERM, so that the load does not end before the others have looked.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker import Broker
from loadtest.capacity.histogram import Histogram
from services.events import Command, CommandNumbers
from services.gateway.door import TURNS
from services.gateway.gateway import Gateway
from services.pacing import Lateness, Pacer, drive
from services.process import add_process_options, run_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.events import View
    from services.gateway.sessions import Session

_SPECTATOR: Final = "spectator"
_NS: Final = 1_000_000_000


class Player:
    """Sees every frame and sends one command per tick."""

    def __init__(self, name: str, hops: Lateness) -> None:
        self.session: Session | None = None
        self._name = name
        self._hops = hops
        self._numbers = CommandNumbers()
        self._tick = 0

    def see(self, view: View) -> None:
        """Take in the newest view: how late it is, by its tick's deadline."""
        self._hops.record((time.time_ns() - view.due) / _NS)
        self._numbers.seen(view.epoch, view.acked(self._name))
        self._tick = view.tick

    def command(self) -> Command:
        """The next one: there and back."""
        number = self._numbers.next()
        return Command(
            player=self._name, cmd_seq=number, client_tick=self._tick, kind="move", dx=1 if number & 32 else -1, dy=0
        )


class Players:
    """All players of some rooms at one gateway; they join when they see their room.

    Attributes:
        hops: of frames, to each player.
        sent: commands.
        all_here: set when every room was seen.
    """

    def __init__(self, gateway: Gateway, rooms: list[str]) -> None:
        self.hops = Lateness()
        self.sent = 0
        self.all_here = asyncio.Event()
        self._gateway = gateway
        self._waiting = {room: gateway.join(room, _SPECTATOR, self._join) for room in rooms}
        self._encode = msgspec.json.Encoder().encode
        self._turns: tuple[list[Player], ...] = tuple([] for _ in range(TURNS))
        self._next = 0

    def _join(self, view: View) -> None:
        spectator = self._waiting.pop(view.room, None)
        if spectator is None:
            return
        spectator.leave()
        for name in view.players:
            player = Player(name, self.hops)
            player.session = self._gateway.join(view.room, name, player.see)
            player.see(view)
            self._turns[self._next % TURNS].append(player)
        self._next += 1
        if not self._waiting:
            self.all_here.set()

    def play(self, turn: int) -> bool:
        """One command of every player whose turn it is."""
        for player in self._turns[turn % TURNS]:
            if player.session is not None:
                player.session.command(self._encode(player.command()))
                self.sent += 1
        return True


class Measurement:
    """Marks the beginning of what counts, and tells what happened since."""

    def __init__(self, gateway: Gateway, players: Players, beat: Pacer, late: Lateness) -> None:
        self._gateway = gateway
        self._players = players
        self._beat = beat
        self._late = late
        self._before = self._look()

    def since(self) -> dict[str, Any]:
        """Counts since the mark, and histograms as counts."""
        before, after = self._before, self._look()
        return {
            name: Histogram.between(before[name], value).counts if isinstance(value, dict) else value - before[name]
            for name, value in after.items()
        }

    def _look(self) -> dict[str, Any]:
        gateway = self._gateway
        frames = gateway.totals()
        return {
            "hops": self._players.hops.counts(),
            "lags": gateway.lateness.counts(),
            "beats": self._late.counts(),
            "skipped": gateway.pacer.skipped + self._beat.skipped,
            "sent": self._players.sent,
            "shown": gateway.shown,
            "lost": frames["lost"],
            "superseded": frames["superseded"],
            "unsent": gateway.unsent,
        }


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    async with Broker.connect(options.url, name=options.name) as broker:
        gateway = Gateway(broker, options.name, tick_rate=options.tick_rate)
        players = Players(gateway, options.rooms.split(","))
        beat = Pacer(options.tick_rate * TURNS, time.monotonic(), catch_up=TURNS)
        late = Lateness()
        running = [
            asyncio.ensure_future(gateway.run(stop)),
            asyncio.ensure_future(
                drive(beat, lambda tick: players.play(tick) and not stop.is_set(), lateness=late, clock=time.monotonic)
            ),
        ]
        measuring = asyncio.ensure_future(_measure(options, players, lambda: Measurement(gateway, players, beat, late)))
        try:
            print("generator ready", flush=True)
            await asyncio.wait({*running, measuring}, return_when=asyncio.FIRST_COMPLETED)
            if measuring.done():
                measuring.result()
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            measuring.cancel()
            stop.set()
            await asyncio.gather(*running)


async def _measure(options: argparse.Namespace, players: Players, begin: Callable[[], Measurement]) -> None:
    await players.all_here.wait()
    await asyncio.sleep(options.warm_up)
    measurement = begin()
    print("measuring", flush=True)
    await asyncio.sleep(options.seconds)
    print("measured", msgspec.json.encode(measurement.since()).decode(), flush=True)


def main() -> int:
    """Run the process; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity.generator", description=__doc__)
    add_process_options(parser)
    parser.add_argument("--name", required=True)
    parser.add_argument("--rooms", required=True, help="ids, separated by commas")
    parser.add_argument("--tick-rate", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=1.5)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    return run_process(lambda stop: _serve(options, stop), name="generator", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
