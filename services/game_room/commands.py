"""Which commands a room takes: the rules only. No ``await``, no clock and no broker in this file."""

from __future__ import annotations

from collections import Counter, deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from services.events import BATCH_COMMANDS, COMMAND_WINDOW, PER_TICK, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.events import Command

QUEUE_LIMIT: Final = BATCH_COMMANDS
"""Commands a room holds for its next ticks."""
OLDEST: Final = 10
"""Ticks a client's view may be behind."""

_SEEN: Final = (1 << COMMAND_WINDOW) - 1


class Ruling(StrEnum):
    """What became of a command. All but the first are rejections."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """Its number was taken before."""
    OUT_OF_ORDER = "out_of_order"
    """A higher number was taken before, this one was not; or it is too old to tell."""
    OVER_WINDOW = "over_window"
    """Its number is further ahead than the client may run."""
    LATE = "late"
    """Its sender's view of the battle is too old."""
    OVER_RATE = "over_rate"
    FORGED = "forged"
    """It names another player than the one who sent it, or one who is not in this room."""
    OVERFLOW = "overflow"
    """The room's queue is full."""
    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    """A body that is no command."""


class _Sender:
    __slots__ = ("bucket", "last", "seen")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.last = 0
        self.seen = 0
        """Bit n: ``last - n`` was taken."""


class Intake:
    """A room's queue of accepted commands. Every command offered is ruled on and counted, none silently dropped.

    Attributes:
        acks: player -> the highest ``cmd_seq`` taken, of those who had any taken. Changes in place.
    """

    def __init__(self, players: Iterable[str], *, tick_rate: int) -> None:
        self._senders = {player: _Sender(TokenBucket(tick_rate)) for player in players}
        self._queue: deque[tuple[str, Command]] = deque()
        self._ticks = 0
        self._accepted = 0
        self._rejected: Counter[Ruling] = Counter()
        self.acks: dict[str, int] = {}

    @property
    def counts(self) -> Counter[Ruling]:
        """Rulings so far."""
        # Apart, because nearly all are accepted and a counter keyed by an enum is slow to add one to.
        accepted = {Ruling.ACCEPTED: self._accepted} if self._accepted else {}
        return Counter({**accepted, **self._rejected})

    def offer(self, player: str, command: Command, *, tick: int) -> Ruling:
        """Rule on a command that ``player`` sent, by its subject's or its gateway's word, not by its own."""
        sender = self._senders.get(player)
        if sender is None or command.player != player:
            return self.reject(Ruling.FORGED)
        # Anything a player sends costs, else a flood of repeats would be free.
        if not sender.bucket.pay(self._ticks):
            return self.reject(Ruling.OVER_RATE)
        ahead = command.cmd_seq - sender.last
        if not 0 < ahead <= COMMAND_WINDOW:
            return self.reject(self._misnumbered(sender, ahead))
        if command.client_tick < tick - OLDEST:
            return self.reject(Ruling.LATE)
        if len(self._queue) >= QUEUE_LIMIT:
            return self.reject(Ruling.OVERFLOW)
        sender.seen = (sender.seen << ahead | 1) & _SEEN
        sender.last = self.acks[player] = command.cmd_seq
        self._queue.append((player, command))
        self._accepted += 1
        return Ruling.ACCEPTED

    def reject(self, ruling: Ruling) -> Ruling:
        """Count a command that is not taken, also one that could not be read."""
        self._rejected[ruling] += 1
        return ruling

    @staticmethod
    def _misnumbered(sender: _Sender, ahead: int) -> Ruling:
        if ahead > 0:
            return Ruling.OVER_WINDOW
        taken = -ahead < COMMAND_WINDOW and sender.seen >> -ahead & 1
        return Ruling.DUPLICATE if taken else Ruling.OUT_OF_ORDER

    def take(self) -> list[tuple[str, Command]]:
        """The commands of the next tick in the order they came, at most ``PER_TICK`` of a player; the rest wait."""
        self._ticks += 1
        taken: list[tuple[str, Command]] = []
        waiting: deque[tuple[str, Command]] = deque()
        applied: dict[str, int] = {}
        for entry in self._queue:
            player = entry[0]
            count = applied.get(player, 0)
            if count < PER_TICK:
                applied[player] = count + 1
                taken.append(entry)
            else:
                waiting.append(entry)
        self._queue = waiting
        return taken

    def __len__(self) -> int:
        return len(self._queue)
