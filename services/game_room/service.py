"""Wires rooms to a broker: frames out, commands in, results stored before the next battle begins."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from broker import ConnectionLost, RequestError, StreamError
from services.events import BATTLE_COMMANDS, BATTLE_SETTLE, BattleEnded, battle_state
from services.game_room.desk import Desk
from services.game_room.room import Phase, Room
from services.pacing import Lateness, Pacer, drive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker import Message, Receipt, StreamBroker
    from services.history import History

log = logging.getLogger("services.game_room")

_ENQUEUE_TIMEOUT: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class RoomHost:
    """Runs one room on a broker until it is told to finish; its first tick is at ``start`` of ``time.monotonic``."""

    def __init__(
        self,
        broker: StreamBroker,
        room: Room,
        *,
        start: float,
        tick_rate: float,
        history: History,
        lateness: Lateness,
    ) -> None:
        self.room = room
        self.pacer = Pacer(tick_rate, start)
        self._began = time.time_ns() + round((start - time.monotonic()) * 1e9)
        self.retries = 0
        self._broker = broker
        self._history = history
        self._lateness = lateness
        self._publisher = broker.state(battle_state(room.room), epoch=room.epoch)
        self._storing: asyncio.Task[Receipt] | None = None

    @property
    def frames(self) -> int:
        """How many were sent."""
        return self._publisher.seq

    async def run(self) -> None:
        """Play battles; returns when the last one is stored after ``finish``."""
        try:
            await drive(self.pacer, self._step, lateness=self._lateness, clock=time.monotonic)
        finally:
            if self._storing is not None:
                self._storing.cancel()
            await self._publisher.aclose()

    def finish(self) -> None:
        """End the running battle with the next tick, have it stored, and stop."""
        self.room.finish()

    def _step(self, tick: int) -> bool:
        if self._storing is not None and self._storing.done():
            self._storing.result()
            self._storing = None
            self.room.stored()
        ended = self.room.tick(tick, now_ns=time.time_ns())
        if ended is not None:
            # Written down before it is sent: the record of what ended must not depend on the broker.
            self._history.write("ended", battle_id=ended.battle_id, room=ended.room)
            self._storing = asyncio.ensure_future(self._store(ended))
        self._publisher.tick(self.room.state(began=self._began), number=tick)
        return self.room.phase is not Phase.CLOSED

    async def _store(self, ended: BattleEnded) -> Receipt:
        """Enqueue until there is a receipt: the same bytes under the same key, so that no attempt counts twice."""
        pause = _FIRST_PAUSE
        while True:
            try:
                receipt = await self._broker.enqueue(
                    BATTLE_SETTLE, ended, idempotency_key=ended.battle_id, timeout=_ENQUEUE_TIMEOUT
                )
            except (StreamError, ConnectionLost, RequestError) as exc:
                log.warning("%s is not stored yet: %s", ended.battle_id, exc)
                self.retries += 1
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self._history.write(
                    "stored", battle_id=ended.battle_id, sequence=receipt.sequence, duplicate=receipt.duplicate
                )
                return receipt


class RoomService:
    """All rooms of a process: one subscription for their commands, one record of what they did.

    Attributes:
        ready: set when commands reach the rooms.
    """

    def __init__(self, broker: StreamBroker, hosts: Sequence[RoomHost], lateness: Lateness) -> None:
        self.desk = Desk(host.room for host in hosts)
        self._broker = broker
        self._hosts = hosts
        self._lateness = lateness
        self.ready = asyncio.Event()

    async def run(self, stop: asyncio.Event, *, grace: float) -> None:
        """Run the rooms until ``stop``, then let each end its battle and have it stored.

        Raises:
            TimeoutError: some battle was still not stored ``grace`` seconds after ``stop``. It waits that long for a
                server that is away: a battle that ended is worth more than a quick exit.
            ExceptionGroup: a room failed; the others were ended with it.
        """
        commands = await self._broker.subscribe(BATTLE_COMMANDS, self._take)
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(host.run(), name=f"room {host.room.room}") for host in self._hosts]
                self.ready.set()
                await stop.wait()
                for host in self._hosts:
                    host.finish()
                _, unfinished = await asyncio.wait(running, timeout=grace)
                for task in unfinished:
                    task.cancel()
        finally:
            await commands.unsubscribe()
        if unfinished:
            raise TimeoutError(f"{len(unfinished)} rooms could not have their last battle stored in {grace:g} s")

    def totals(self) -> dict[str, object]:
        """What was done so far, for the record."""
        rulings: Counter[str] = Counter()
        for host in self._hosts:
            rulings.update({ruling.value: count for ruling, count in host.room.intake.counts.items()})
        desk, hosts = self.desk, self._hosts
        return {
            "rooms": len(hosts),
            "planned": sum(host.pacer.planned for host in hosts),
            "run": sum(host.pacer.run for host in hosts),
            "skipped": sum(host.pacer.skipped for host in hosts),
            "frames": sum(host.frames for host in hosts),
            "retries": sum(host.retries for host in hosts),
            "commands": dict(rulings),
            "batches": desk.batches,
            "direct": desk.direct,
            "elsewhere": desk.elsewhere,
            "late_p50": self._lateness.quantile(0.5),
            "late_p99": self._lateness.quantile(0.99),
            "late_max": self._lateness.max,
            "late_counts": self._lateness.counts(),
            "batch_hop_counts": desk.hops.counts(),
        }

    def _take(self, message: Message) -> None:
        self.desk.take(message.subject, message.data, now_ns=time.time_ns())
