"""The run itself: server, processes, mischief, the kill, the end, the verdict."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker import BrokerError, StreamBroker
from broker.server import NatsServer
from services.children import Child, Children
from services.demo.evidence import dead_letters, ended_battles, gather, stored_copies, told_to_audit
from services.demo.mischief import Mischief
from services.demo.progress import Progress
from services.demo.report import table
from services.demo.verdict import Kill, judge, sentence
from services.events import AUDIT, LEADERBOARD, SETTLE_WORKER, SETTLEMENTS, STANDINGS_WORKER

if TYPE_CHECKING:
    from pathlib import Path

    from services.demo.screen import Screen

_START_TIMEOUT: Final = 30.0
_DRAIN_TIMEOUT: Final = 20.0
_SETTLE_TIMEOUT: Final = 30.0
_ACK_WAIT: Final = 3.0
"""Seconds until a killed worker's messages go to another: short, so that a short run shows it."""
_FREEZE_TIMEOUT: Final = 3.0
_HELD_FOR: Final = 0.3
"""Seconds a message must stay unsettled to count as in the frozen worker's hands: a living one needs milliseconds."""
_BURST: Final = 30
_REPLACED_AFTER: Final = 1.0
_POLL: Final = 0.05
_TOP: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How large and how long a run is; times in seconds."""

    rooms: int
    players: int
    tick_rate: int
    seconds: float
    battle_seconds: float
    rooms_per_process: int
    command_rate: float


class Show:
    """One run in one directory."""

    def __init__(self, settings: Settings, screen: Screen, directory: Path, *, store: Path | None) -> None:
        self._settings = settings
        self._screen = screen
        self._directory = directory
        self._store = store
        self._ledger = directory / "ledger.db"
        self._standings = directory / "standings.db"
        self._crowd_record = directory / "crowd.jsonl"
        names = [f"room-{n:02d}" for n in range(1, settings.rooms + 1)]
        self._rooms = [
            names[at : at + settings.rooms_per_process] for at in range(0, len(names), settings.rooms_per_process)
        ]
        self._histories = [directory / f"rooms-{n}.jsonl" for n in range(1, len(self._rooms) + 1)]
        self._progress = Progress(
            histories=self._histories, crowd=self._crowd_record, ledger=self._ledger, standings=self._standings
        )
        self._troubles: list[str] = []

    async def run(self) -> bool:
        """Play, show, judge; whether every battle was settled exactly once.

        Raises:
            ChildFailed, BrokerError: the run could not be brought to its end.
        """
        async with NatsServer(self._store) as server:
            self._screen.say(f"nats-server {server.version} at {server.url}, JetStream synced to disk on every write")
            async with StreamBroker.connect(server.url, name="demo") as broker:
                await broker.declare(SETTLEMENTS, LEADERBOARD, AUDIT)
                with Children(self._directory, server.url) as children:
                    return await self._play(broker, children)

    async def _play(self, broker: StreamBroker, children: Children) -> bool:
        first, second = (self._settler(children, n) for n in (1, 2))
        leaderboard = children.start(
            "leaderboard", "services.leaderboard", "--standings", str(self._standings), "--ack-wait", f"{_ACK_WAIT}"
        )
        crowd = self._crowd(children)
        await children.ready((first, second, leaderboard, crowd), _START_TIMEOUT)
        rooms = [self._room_process(children, n) for n in range(len(self._rooms))]
        await children.ready(rooms, _START_TIMEOUT)
        self._screen.say(
            f"{self._settings.rooms} rooms of {self._settings.players} players at {self._settings.tick_rate} Hz in "
            f"{len(rooms)} processes, 2 settlement workers, 1 leaderboard worker"
        )

        mischief = Mischief(broker)
        making = asyncio.ensure_future(mischief.run())
        showing = asyncio.ensure_future(self._show())
        try:
            await asyncio.sleep(self._settings.seconds / 2)
            kill = await self._kill(broker, first, mischief)
            await asyncio.sleep(_REPLACED_AFTER)
            replacement = self._settler(children, 3)
            self._screen.say("settlement-3 takes its place")
            await asyncio.sleep(max(0.0, self._settings.seconds / 2 - _REPLACED_AFTER))
            self._screen.say("SIGTERM to the rooms: they end their battles and have them stored")
            self._troubles += await children.drain(rooms, _DRAIN_TIMEOUT)
            await _stop(making)
            await self._settled(broker)
            await replacement.ready(_START_TIMEOUT)
            self._troubles += await children.drain((crowd, second, replacement, leaderboard), _DRAIN_TIMEOUT)
        finally:
            await _stop(showing)
            await _stop(making, silent=True)
        return await self._judge(broker, kill, mischief)

    async def _judge(self, broker: StreamBroker, kill: Kill, mischief: Mischief) -> bool:
        evidence = gather(
            histories=self._histories,
            copies=await stored_copies(broker),
            told=await told_to_audit(broker),
            dead=await dead_letters(broker),
            ledger=self._ledger,
            standings=self._standings,
            kill=kill,
        )
        evidence.troubles = self._troubles
        reasons = judge(evidence)
        self._screen.report(
            table(
                self._progress.look(),
                top=self._progress.top(_TOP),
                absorbed_by_server=mischief.absorbed_by_server,
                killed=f"{kill.worker}, SIGKILL with {kill.in_hand} messages in hand; settlement-3 took its place",
            )
        )
        self._screen.say(sentence(reasons))
        return not reasons

    # -- the processes

    def _settler(self, children: Children, number: int) -> Child:
        name = f"settlement-{number}"
        return children.start(
            name, "services.settlement", "--database", str(self._ledger), "--name", name, "--ack-wait", f"{_ACK_WAIT}"
        )

    def _crowd(self, children: Children) -> Child:
        rooms = ",".join(room for rooms in self._rooms for room in rooms)
        options = ("--rooms", rooms, "--rate", f"{self._settings.command_rate}", "--stats", str(self._crowd_record))
        return children.start("crowd", "services.demo.crowd", *options)

    def _room_process(self, children: Children, index: int) -> Child:
        settings = self._settings
        options = {
            "--rooms": ",".join(self._rooms[index]),
            "--players": settings.players,
            "--tick-rate": settings.tick_rate,
            "--battle-seconds": settings.battle_seconds,
            "--stats": self._histories[index],
        }
        arguments = [str(part) for option in options.items() for part in option]
        return children.start(f"rooms-{index + 1}", "services.game_room", *arguments)

    # -- the parts of the play

    async def _show(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for second in range(1, 1_000_000):
            await asyncio.sleep(start + second - loop.time())
            self._screen.show(second, self._progress.look())

    async def _kill(self, broker: StreamBroker, worker: Child, mischief: Mischief) -> Kill:
        """SIGKILL a worker while it holds messages: frozen first, so that what it has been given stays in its hands."""
        worker.signal(signal.SIGSTOP)
        await mischief.burst(_BURST)
        in_hand = await self._held(broker)
        sent = worker.signal(signal.SIGKILL)
        code = await worker.ended(_START_TIMEOUT)
        self._screen.say(f"{worker.name} killed with SIGKILL, {in_hand} messages in hand")
        return Kill(worker.name, sent and code == -signal.SIGKILL, in_hand)

    async def _held(self, broker: StreamBroker) -> int:
        """Messages that stay unsettled; 0 when there are none for too long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FREEZE_TIMEOUT
        window: list[int] = []
        while loop.time() < deadline:
            window.append((await broker.consumers.info(SETTLEMENTS.name, SETTLE_WORKER)).ack_pending)
            held = min(window[-round(_HELD_FOR / _POLL) :])
            if held and len(window) >= _HELD_FOR / _POLL:
                return held
            await asyncio.sleep(_POLL)
        return 0

    async def _settled(self, broker: StreamBroker) -> None:
        """Return when nothing is left to do, or when it takes too long: the verdict will say what is missing."""
        deadline = asyncio.get_running_loop().time() + _SETTLE_TIMEOUT
        while asyncio.get_running_loop().time() < deadline:
            now = self._progress.look()
            if now.settled >= len(set(ended_battles(self._histories))) and not now.unsent:
                waiting = [
                    await broker.consumers.info(SETTLEMENTS.name, SETTLE_WORKER),
                    await broker.consumers.info(LEADERBOARD.name, STANDINGS_WORKER),
                ]
                if not any(info.pending or info.ack_pending for info in waiting):
                    return
            await asyncio.sleep(_POLL)
        self._troubles.append(f"not everything was settled {_SETTLE_TIMEOUT:g} s after the last battle")


async def _stop(task: asyncio.Task[None], *, silent: bool = False) -> None:
    """Cancel and wait; what it failed with is raised unless ``silent``."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        if silent:
            with suppress(BrokerError):
                await task
        else:
            await task
