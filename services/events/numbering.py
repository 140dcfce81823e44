"""How a client numbers its commands, so that a room that lost some can still tell old from new. Rules only."""

from __future__ import annotations

from services.events.limits import COMMAND_WINDOW


class CommandNumbers:
    """One player's ``cmd_seq``: it counts on, and after too many unanswered ones goes back to the last one taken.

    Those between were lost: a room that did take them says so in its frames, or refuses the repeat.
    """

    def __init__(self) -> None:
        self._last = 0
        self._acked = 0
        self._epoch = -1

    def seen(self, epoch: int, acked: int) -> None:
        """Take in what the newest frame acknowledges (0: nothing). A new owner of the room knows no old number."""
        if epoch > self._epoch:
            self._epoch = epoch
            self._last = self._acked = acked
        elif epoch == self._epoch:
            self._acked = max(self._acked, acked)
            self._last = max(self._last, acked)

    def next(self) -> int:
        """The number of the next command."""
        if self._last - self._acked >= COMMAND_WINDOW:
            self._last = self._acked
        self._last += 1
        return self._last
