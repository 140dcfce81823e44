"""What got lost on the way at QoS 0: each sender numbers its events, and a gap is a loss. No I/O."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from broker.contracts.headers import NUMBER, Headers

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBERED: Final = re.compile(r"([0-9a-f]{16}) ([0-9]{1,18})\Z")
_MOST_SENDERS: Final = 4096


class Numbering:
    """Numbers the events of one sender, from 1."""

    def __init__(self) -> None:
        self._sender = os.urandom(8).hex()
        self._last = 0

    def next(self) -> Headers:
        """The header of the next one."""
        self._last += 1
        return Headers(((NUMBER, f"{self._sender} {self._last}"),))


class Gaps:
    """Counts what is missing between the numbers of each sender. Of more senders than 4096 the quietest is forgotten.

    What was sent before the first event that arrives, or after the last one, is not noticed.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def missing(self, headers: Mapping[str, str] | None) -> int:
        """How many were lost right before the event with these headers; 0 when it is not numbered."""
        found = _NUMBERED.match(headers.get(NUMBER, "")) if headers else None
        if found is None:
            return 0
        sender, number = found[1], int(found[2])
        last = self._last.pop(sender, number - 1)
        self._last[sender] = max(last, number)
        if len(self._last) > _MOST_SENDERS:
            del self._last[next(iter(self._last))]
        return max(0, number - last - 1)
