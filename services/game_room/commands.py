"""Which commands a room takes: the rules only. No ``await``, no clock and no broker in this file."""

from __future__ import annotations

from collections import Counter, deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.events import Command

QUEUE_LIMIT: Final = 128
"""Commands a room holds for its next ticks."""
PER_TICK: Final = 4
"""Commands of one player applied in one tick."""
RATE: Final = 60
"""Commands per second a player may send for long."""
BURST: Final = 20
"""Commands a player may send at once after being quiet."""
OLDEST: Final = 10
"""Ticks a client's view may be behind."""
WINDOW: Final = 64
"""How far back a repeat is told from a late one."""


class Ruling(StrEnum):
    """What became of a command."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    LATE = "late"
    FORGED = "forged"
    OVER_RATE = "over_rate"
    OVERFLOW = "overflow"
    MALFORMED = "malformed"


class _Sender:
    __slots__ = ("last", "seen", "tokens")

    def __init__(self, tokens: int) -> None:
        self.last = 0
        self.seen = 0
        """Bit n: ``last - n`` was taken."""
        self.tokens = tokens


class Intake:
    """A room's queue of accepted commands. Every command offered is ruled on and counted, none silently dropped."""

    def __init__(self, players: Iterable[str], *, tick_rate: int) -> None:
        self._tick_rate = tick_rate
        # One command costs ``tick_rate`` tokens and a tick brings ``RATE``: a rate per second without fractions.
        self._full = BURST * tick_rate
        self._senders = {player: _Sender(self._full) for player in players}
        self._queue: deque[tuple[str, Command]] = deque()
        self.counts: Counter[Ruling] = Counter()

    @property
    def acks(self) -> dict[str, int]:
        """Player -> the highest ``cmd_seq`` taken, of those who sent anything."""
        return {player: sender.last for player, sender in self._senders.items() if sender.last}

    def offer(self, player: str, command: Command, *, tick: int) -> Ruling:
        """Rule on a command that came on ``player``'s own subject; what it says of itself is not believed."""
        ruling = self._rule(player, command, tick)
        if ruling is Ruling.ACCEPTED:
            self._queue.append((player, command))
        self.counts[ruling] += 1
        return ruling

    def reject_malformed(self) -> None:
        """Count a body that is no command."""
        self.counts[Ruling.MALFORMED] += 1

    def _rule(self, player: str, command: Command, tick: int) -> Ruling:
        sender = self._senders.get(player)
        if sender is None or command.player != player:
            return Ruling.FORGED
        if sender.tokens < self._tick_rate:
            return Ruling.OVER_RATE
        # Anything a player sends costs, else a flood of repeats would be free.
        sender.tokens -= self._tick_rate
        ahead = command.cmd_seq - sender.last
        if ahead <= 0:
            seen = -ahead < WINDOW and sender.seen >> -ahead & 1
            return Ruling.DUPLICATE if seen else Ruling.LATE
        if command.client_tick < tick - OLDEST:
            return Ruling.LATE
        if len(self._queue) >= QUEUE_LIMIT:
            return Ruling.OVERFLOW
        sender.seen = (sender.seen << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
        sender.last = command.cmd_seq
        return Ruling.ACCEPTED

    def take(self) -> list[tuple[str, Command]]:
        """The commands of the next tick in the order they came, at most ``PER_TICK`` of a player; the rest wait."""
        for sender in self._senders.values():
            sender.tokens = min(self._full, sender.tokens + RATE)
        taken: list[tuple[str, Command]] = []
        waiting: deque[tuple[str, Command]] = deque()
        applied: Counter[str] = Counter()
        for player, command in self._queue:
            if applied[player] < PER_TICK:
                applied[player] += 1
                taken.append((player, command))
            else:
                waiting.append((player, command))
        self._queue = waiting
        return taken

    def __len__(self) -> int:
        return len(self._queue)
