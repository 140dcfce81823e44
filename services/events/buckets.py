"""What a player may send, at a gateway as in a room. Rules only: whoever asks brings the time, as a count of ticks."""

from __future__ import annotations

from services.events.limits import COMMAND_BURST, COMMAND_RATE


class TokenBucket:
    """One player's: ``COMMAND_BURST`` commands at once, ``COMMAND_RATE`` a second for long. It begins full.

    Args:
        ticks_per_second: of the clock that ``now`` counts.
        now: in ticks; it never goes back.
    """

    __slots__ = ("_cost", "_filled", "_full", "_tokens")

    def __init__(self, ticks_per_second: float, now: int = 0) -> None:
        # A command costs ``ticks_per_second`` tokens and a tick brings ``COMMAND_RATE``: a rate without fractions.
        self._cost = ticks_per_second
        self._full = self._tokens = COMMAND_BURST * ticks_per_second
        self._filled = now

    def pay(self, now: int) -> bool:
        """Take one command's tokens; ``False`` and nothing taken when there are too few."""
        if self._filled != now:
            tokens = self._tokens + COMMAND_RATE * (now - self._filled)
            self._tokens = tokens if tokens < self._full else self._full  # noqa: FURB136 - per command; min() is a call
            self._filled = now
        if self._tokens < self._cost:
            return False
        self._tokens -= self._cost
        return True
