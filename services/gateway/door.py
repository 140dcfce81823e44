"""What local players' commands wait in until the next tick: the rules only. No ``await``, no clock and no broker.

A gateway knows who is at the other end of a connection. It looks at every command once, so that no client can spoil
a message that carries other players' commands; whether a command comes in time and in order is the room's business.
"""

from __future__ import annotations

import math
from collections import Counter
from enum import StrEnum
from typing import Final
from zlib import crc32

import msgspec

from services.events import (
    BATCH_COMMANDS,
    COMMAND_BURST,
    COMMAND_BYTES,
    COMMAND_RATE,
    PER_TICK,
    Command,
    TokenBucket,
)

TURNS: Final = 8
"""Parts of a tick over which rooms are spread, so that a gateway does not send to all of them at one moment."""


class Passing(StrEnum):
    """What became of a command at the door. All but the first are rejections."""

    PASSED = "passed"
    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    FORGED = "forged"
    """It names another player than the one at the other end."""
    FLOODED = "flooded"
    """More of one player than a room would take from them; anything they send costs, also what is no command."""
    OVERFLOW = "overflow"
    """More for one room than a message holds, or than may wait for the messages after it."""


class _Bin:
    """What one room gets next, and what waits for later because its player has their share of that."""

    __slots__ = ("coming", "per_player", "waiting")

    def __init__(self) -> None:
        self.coming: list[tuple[str, msgspec.Raw]] = []
        self.waiting: list[tuple[str, msgspec.Raw]] = []
        self.per_player: dict[str, int] = {}

    def put(self, player: str, data: msgspec.Raw) -> bool:
        """Whether there was a place. A player's commands keep their order: over their share, all that follow wait."""
        count = self.per_player.get(player, 0)
        if count < PER_TICK:
            lane = self.coming
            if len(lane) >= BATCH_COMMANDS:
                return False
            self.per_player[player] = count + 1
        else:
            lane = self.waiting
            if len(lane) >= BATCH_COMMANDS:
                return False
        lane.append((player, data))
        return True


class Door:
    """Players' commands by room, in the order they came. Every one is counted, none silently dropped.

    No player has more than ``PER_TICK`` commands in a message, nor sends faster than a room takes: whoever floods,
    the others have their places. The rest of a burst waits for the messages after it.

    Args:
        tick_rate: messages per room and second.
    """

    def __init__(self, *, tick_rate: float = 30.0) -> None:
        self.counts: Counter[Passing] = Counter()
        self._decode = msgspec.json.Decoder(Command).decode
        self._bins: tuple[dict[str, _Bin], ...] = tuple({} for _ in range(TURNS))
        self._buckets = _Buckets(tick_rate * TURNS)
        self._turn = 0

    def __len__(self) -> int:
        """Commands that are still to be taken."""
        return sum(len(each.coming) + len(each.waiting) for bins in self._bins for each in bins.values())

    def admits(self, player: str, data: bytes) -> bool:
        """Whether it is a command of ``player``'s. One that is not is counted, as if it had been offered."""
        passing = self._judge(player, data)
        if passing is not Passing.PASSED:
            self.counts[passing] += 1
        return passing is Passing.PASSED

    def offer(self, room: str, player: str, data: bytes) -> Passing:
        """Take a command as it came from ``player``'s own connection, or not."""
        passing = self._pass(room, player, data)
        self.counts[passing] += 1
        return passing

    def take(self, turn: int) -> list[tuple[str, list[tuple[str, msgspec.Raw]]]]:
        """What goes to each of the rooms whose turn it is; every room has one in ``TURNS``.

        Turns are also the time by which players may send again; those left out count.
        """
        self._buckets.advance(max(1, turn - self._turn))
        self._turn = turn
        bins = self._bins[turn % TURNS]
        taken = [(room, each.coming) for room, each in bins.items()]
        left = [(room, each.waiting) for room, each in bins.items() if each.waiting]
        bins.clear()
        for room, waiting in left:
            following = bins[room] = _Bin()
            for player, data in waiting:
                following.put(player, data)
        return taken

    def _pass(self, room: str, player: str, data: bytes) -> Passing:
        if not self._buckets.pay(room, player):
            return Passing.FLOODED
        passing = self._judge(player, data)
        if passing is not Passing.PASSED:
            return passing
        bins = self._bins[crc32(room.encode()) % TURNS]
        waiting = bins.get(room)
        if waiting is None:
            waiting = bins[room] = _Bin()
        # The client's own bytes, now known to be one command: they are not encoded a second time.
        return Passing.PASSED if waiting.put(player, msgspec.Raw(data)) else Passing.OVERFLOW

    def _judge(self, player: str, data: bytes) -> Passing:
        if len(data) > COMMAND_BYTES:
            return Passing.OVERSIZED
        try:
            command = self._decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return Passing.MALFORMED
        return Passing.PASSED if command.player == player else Passing.FORGED


class _Buckets:
    """A bucket for each player in each room. Those who are quiet until theirs is full again are forgotten."""

    def __init__(self, turns_per_second: float) -> None:
        self._turns_per_second = turns_per_second
        self._now = 0
        self._refill = math.ceil(COMMAND_BURST / COMMAND_RATE * turns_per_second)
        self._recent: dict[tuple[str, str], TokenBucket] = {}
        self._before: dict[tuple[str, str], TokenBucket] = {}
        self._next = self._refill

    def __len__(self) -> int:
        return len(self._recent) + len(self._before)

    def advance(self, turns: int) -> None:
        """Let that many turns pass."""
        self._now += turns
        if self._now >= self._next:
            # Nobody in ``before`` has paid for a whole refill: a new bucket is as good as theirs.
            self._before, self._recent = self._recent, {}
            self._next = self._now + self._refill

    def pay(self, room: str, player: str) -> bool:
        """Whether the player had a command's tokens in the room."""
        key = room, player
        bucket = self._recent.get(key)
        if bucket is None:
            bucket = self._before.pop(key, None) or TokenBucket(self._turns_per_second, self._now)
            self._recent[key] = bucket
        return bucket.pay(self._now)
