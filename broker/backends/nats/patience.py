"""How patient we are with servers: what one may take its time for, and what lies between two tries."""

from __future__ import annotations

import random
from typing import Final

ONE_SERVER: Final = 2
"""Seconds one server gets to let us in before the next one has its turn."""
REFUSALS: Final = 2
"""Refusals in a row, while reconnecting, that are taken as final; one may be a server that is still starting."""
PING_EVERY: Final = 2
"""Seconds between pings; a server is left before it was silent for three of them."""
LINGER: Final = 0.5
"""Seconds a connection we leave by ourselves gets to process what was sent."""
PARTING: Final = 1.0
"""Seconds for what must come to an end once it was told to."""
SHORTEST_WAIT: Final = 0.1
"""Seconds between two tries at least, but for the first."""
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 0.5
_DOUBLINGS: Final = 8


def wait_before(attempt: int) -> float:
    """Seconds before this attempt, from 1: short at first, then longer, random so that many clients spread."""
    if attempt == 1:
        return random.uniform(0, _FIRST_WAIT)
    longest = min(_LONGEST_WAIT, SHORTEST_WAIT * 2 ** min(attempt, _DOUBLINGS))
    return random.uniform(SHORTEST_WAIT, longest)
