"""``python -m services.demo.crowd``: simulated players and a spectator of every room, in a process of their own.

A process of its own, so that what it measures is the way of a frame and not the demo's screen.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from array import array
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from broker import Broker
from services.events import Command, Frame, FrameHeader, battle_command, battle_state
from services.process import add_process_options, run_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker import Message

_STEP: Final = 0.02
_GONE_AFTER: Final = 0.5
_SENT_TWICE: Final = 0.02
_FORGED: Final = 0.005


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` of all do not exceed; 0.0 when there are none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


class Spectator:
    """Counts the frames of one room: received, lost (gaps in ``seq``), out of order, and how long they took."""

    def __init__(self) -> None:
        self.received = 0
        self.lost = 0
        self.out_of_order = 0
        self.tick = 0
        self.seen_at = 0.0
        self._last: dict[int, int] = {}

    def see(self, header: FrameHeader) -> None:
        """Take in one frame. Every epoch counts from 1, and the spectator was there before the room."""
        last = self._last.get(header.epoch, 0)
        self.received += 1
        self.tick = header.tick
        self.seen_at = time.monotonic()
        if header.seq <= last:
            self.out_of_order += 1
            return
        self.lost += header.seq - last - 1
        self._last[header.epoch] = header.seq


class Player:
    """Sends commands at random moments: a few of them twice, and now and then one in another player's name."""

    def __init__(self, room: str, name: str, others: Sequence[str], rate: float, dice: random.Random) -> None:
        self._subject = battle_command(room, name)
        self._name = name
        self._others = others
        self._rate = rate
        self._dice = dice
        self._cmd_seq = 0
        self._next = dice.expovariate(rate)

    def due(self, now: float, tick: int) -> list[tuple[str, Command]]:
        """What the player sends now, ``now`` seconds after it joined."""
        sent: list[tuple[str, Command]] = []
        while self._next <= now:
            self._next += self._dice.expovariate(self._rate)
            self._cmd_seq += 1
            forged = self._dice.random() < _FORGED
            command = Command(
                player=self._dice.choice(self._others) if forged and self._others else self._name,
                cmd_seq=self._cmd_seq,
                client_tick=tick,
                kind=self._dice.choice(("move", "fire")),
                dx=self._dice.choice((-1, 0, 1)),
                dy=self._dice.choice((-1, 0, 1)),
                target=self._dice.choice(self._others) if self._others else "",
            )
            sent += [(self._subject, command)] * (2 if self._dice.random() < _SENT_TWICE else 1)
        return sent


class Crowd:
    """The spectators and players of all rooms, on one connection."""

    def __init__(self, broker: Broker, rooms: Sequence[str], *, rate: float, dice: random.Random) -> None:
        self._broker = broker
        self._spectators = {room: Spectator() for room in rooms}
        self._players: dict[str, tuple[float, list[Player]]] = {}
        self._rate = rate
        self._dice = dice
        self._hops = array("d")
        self._reported = 0
        self.sent = 0

    async def watch(self) -> None:
        """Subscribe to every room; players join a room with its first frame."""
        for room, spectator in self._spectators.items():
            await self._broker.subscribe(battle_state(room), self._frame_handler(room, spectator))

    def _frame_handler(self, room: str, spectator: Spectator) -> Callable[[Message], None]:
        decode = msgspec.json.Decoder(FrameHeader).decode
        hop = self._hops.append

        def see(message: Message) -> None:
            now = time.time_ns()
            header = decode(message.data)
            hop((now - header.ts_pub) / 1e9)
            spectator.see(header)
            if room not in self._players:
                self._join(room, message.decode(Frame))

        return see

    def _join(self, room: str, frame: Frame) -> None:
        names = [state.player for state in frame.players]
        self._players[room] = (
            time.monotonic(),
            [Player(room, name, [n for n in names if n != name], self._rate, self._dice) for name in names],
        )

    def play(self) -> None:
        """Send what is due. Players of a room that shows nothing any more have left."""
        now = time.monotonic()
        for room, (joined, players) in self._players.items():
            spectator = self._spectators[room]
            if now - spectator.seen_at > _GONE_AFTER:
                continue
            tick = max(0, spectator.tick)
            for player in players:
                for subject, command in player.due(now - joined, tick):
                    self._broker.publish_nowait(subject, command)
                    self.sent += 1

    def totals(self, *, final: bool = False) -> dict[str, object]:
        """What was seen so far; hop times of the time since the last call, or of all of it when ``final``."""
        hops = sorted(self._hops if final else self._hops[self._reported :])
        self._reported = len(self._hops)
        counts: Counter[str] = Counter()
        for spectator in self._spectators.values():
            counts.update(received=spectator.received, lost=spectator.lost, out_of_order=spectator.out_of_order)
        return {
            **counts,
            "commands": self.sent,
            "hop_p50": quantile(hops, 0.5),
            "hop_p99": quantile(hops, 0.99),
            "hop_max": hops[-1] if hops else 0.0,
        }


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with options.stats.open("ab", buffering=0) as stats:
        async with Broker.connect(options.url, name="crowd") as broker:
            crowd = Crowd(broker, options.rooms.split(","), rate=options.rate, dice=random.Random(options.seed))
            await crowd.watch()
            print("crowd ready", flush=True)
            report_at = time.monotonic() + 1.0
            while not stop.is_set():
                crowd.play()
                if time.monotonic() >= report_at:
                    report_at += 1.0
                    stats.write(msgspec.json.encode({"op": "totals", **crowd.totals()}) + b"\n")
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _STEP)
            await broker.drain()
            stats.write(msgspec.json.encode({"op": "final", **crowd.totals(final=True)}) + b"\n")


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
