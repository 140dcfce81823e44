"""``python -m services.game_room``: one process with one or several rooms; SIGTERM ends and settles their battles."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker import StreamBroker, Subject
from services.connection import keyed_connection
from services.events import MOST_PLAYERS, SETTLEMENTS
from services.game_room.room import Room
from services.game_room.service import RoomHost, RoomService
from services.history import History
from services.pacing import Lateness, spread
from services.process import add_process_options, run_process

_OUTBOUND_LIMIT: Final = 512 << 10
"""A few seconds of frames: older ones are worthless when the connection comes back."""
_LEAVING: Final = 2.0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.game_room", description=__doc__)
    add_process_options(parser)
    parser.add_argument("--rooms", default="room-1", help="ids, separated by commas (default %(default)s)")
    parser.add_argument("--players", type=int, default=8, help="per room (default %(default)s)")
    parser.add_argument("--tick-rate", type=int, default=30, help="ticks per second (default %(default)s)")
    parser.add_argument("--battle-seconds", type=float, default=180.0, help="on average (default %(default)g)")
    parser.add_argument("--seed", type=int, default=None, help="replays the same battles; default: another each time")
    # Until rooms have leases, the start time is the epoch: it grows with every start of the same room.
    parser.add_argument("--epoch", type=int, default=int(time.time()), help="of the rooms' owner (default: now)")
    parser.add_argument("--stats", type=Path, default=None, metavar="FILE", help="append a JSONL record to this file")
    options = parser.parse_args()
    if options.players < 1 or options.tick_rate < 1 or options.battle_seconds <= 0:
        parser.error("players, tick rate and battle seconds must be above zero")
    if options.players > MOST_PLAYERS:
        parser.error(f"--players must be {MOST_PLAYERS} at most: nobody pays a larger battle")
    return options


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    names = [Subject.token(room) for room in options.rooms.split(",")]
    seed = options.epoch if options.seed is None else options.seed
    lateness = Lateness()
    with History(options.stats) as history:
        async with StreamBroker.connect(
            **keyed_connection(options),
            name=f"game-room {names[0]} and {len(names) - 1} more",
            outbound_limit=_OUTBOUND_LIMIT,
        ) as broker:
            await broker.declare(SETTLEMENTS, ensure=options.ensure)
            starts = spread(len(names), rate=options.tick_rate, now=time.monotonic())
            hosts = [
                RoomHost(
                    broker,
                    Room(
                        room,
                        [f"{room}-p{n}" for n in range(1, options.players + 1)],
                        seed=seed,
                        epoch=options.epoch,
                        tick_rate=options.tick_rate,
                        battle_ticks=round(options.battle_seconds * options.tick_rate),
                    ),
                    start=start,
                    tick_rate=options.tick_rate,
                    history=history,
                    lateness=lateness,
                )
                for room, start in zip(names, starts, strict=True)
            ]
            service = RoomService(broker, hosts, lateness)
            reporter = asyncio.ensure_future(_report(history, service))
            try:
                await service.run(stop, grace=options.grace)
            finally:
                reporter.cancel()
                with suppress(asyncio.CancelledError):
                    await reporter
                history.write("final", **service.totals())
            # Every battle is stored: what is left to send is worth no long wait.
            await broker.drain(timeout=_LEAVING)


async def _report(history: History, service: RoomService) -> None:
    await service.ready.wait()
    print(f"game_room ready: {service.totals()['rooms']} rooms", flush=True)
    while True:
        await asyncio.sleep(1.0)
        history.write("totals", at=time.monotonic(), **service.totals())


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="game_room", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
