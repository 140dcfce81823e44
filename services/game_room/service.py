"""Wires rooms to a broker: frames out, commands in, results stored before the next battle begins."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from broker import ConnectionLost, DecodeError, RequestError, StreamError
from services.events import (
    BATTLE_SETTLE,
    BattleEnded,
    Command,
    battle_commands,
    battle_state,
    commanding_player,
)
from services.game_room.pacing import Lateness, Pacer, drive
from services.game_room.room import Phase, Room

if TYPE_CHECKING:
    from broker import Message, Receipt, StreamBroker
    from services.game_room.history import History

log = logging.getLogger("services.game_room")

_ENQUEUE_TIMEOUT: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class RoomHost:
    """Runs one room on a broker until it is told to finish."""

    def __init__(
        self, broker: StreamBroker, room: Room, *, tick_rate: float, history: History, lateness: Lateness
    ) -> None:
        self.room = room
        # A random phase: rooms of one machine do not all wake at the same moment.
        start = asyncio.get_running_loop().time() + random.uniform(0, 1 / tick_rate)
        self.pacer = Pacer(tick_rate, start)
        self.retries = 0
        self._broker = broker
        self._history = history
        self._lateness = lateness
        self._state_subject = battle_state(room.room)
        self._storing: asyncio.Task[Receipt] | None = None

    async def run(self) -> None:
        """Play battles; returns when the last one is stored after ``finish``."""
        commands = await self._broker.subscribe(battle_commands(self.room.room), self._take_command)
        try:
            clock = asyncio.get_running_loop().time
            await drive(self.pacer, self._step, lateness=self._lateness, clock=clock)
        finally:
            if self._storing is not None:
                self._storing.cancel()
            await commands.unsubscribe()

    def finish(self) -> None:
        """End the running battle with the next tick, have it stored, and stop."""
        self.room.finish()

    def _take_command(self, message: Message) -> None:
        try:
            command = message.decode(Command)
        except DecodeError:
            self.room.intake.reject_malformed()
            return
        self.room.offer(commanding_player(message.subject), command)

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
        self._broker.publish_nowait(self._state_subject, self.room.frame(now_ns=time.time_ns()))
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


async def host_rooms(hosts: list[RoomHost], stop: asyncio.Event, *, grace: float) -> None:
    """Run the rooms until ``stop``, then let each end its battle and have it stored.

    Raises:
        TimeoutError: some battle was still not stored ``grace`` seconds after ``stop``.
        ExceptionGroup: a room failed; the others were ended with it.
    """
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(host.run(), name=f"room {host.room.room}") for host in hosts]
        await stop.wait()
        for host in hosts:
            host.finish()
        _, unfinished = await asyncio.wait(running, timeout=grace)
        for task in unfinished:
            task.cancel()
    if unfinished:
        raise TimeoutError(f"{len(unfinished)} rooms could not have their last battle stored in {grace:g} s")


def totals(hosts: list[RoomHost], lateness: Lateness) -> dict[str, object]:
    """What the rooms of this process did so far, for their record."""
    rulings: dict[str, int] = {}
    for host in hosts:
        for ruling, count in host.room.intake.counts.items():
            rulings[ruling.value] = rulings.get(ruling.value, 0) + count
    return {
        "rooms": len(hosts),
        "planned": sum(host.pacer.planned for host in hosts),
        "run": sum(host.pacer.run for host in hosts),
        "skipped": sum(host.pacer.skipped for host in hosts),
        "frames": sum(host.room.frames for host in hosts),
        "retries": sum(host.retries for host in hosts),
        "commands": rulings,
        "late_p50": lateness.quantile(0.5),
        "late_p99": lateness.quantile(0.99),
        "late_max": lateness.max,
    }
