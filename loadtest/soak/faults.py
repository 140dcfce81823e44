"""When the connections break and how: planned beforehand from a seed, carried out while the load runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

    from broker.server import NatsServer
    from loadtest.soak.proxy import Proxy

CUT_ONE: Final = "one connection reset"
CUT_ALL: Final = "all connections reset"
STALL: Final = "network stalled"
FREEZE: Final = "server frozen"
LONG_FREEZE: Final = "server frozen until it is given up"
RESTART: Final = "server restarted"

_MIX: Final = {CUT_ONE: 10, CUT_ALL: 5, STALL: 2, FREEZE: 3}
_SECONDS: Final = {STALL: (0.5, 2.0), FREEZE: (0.5, 3.0), LONG_FREEZE: (7.5, 8.5)}
_LARGE: Final = (LONG_FREEZE, RESTART)
_LARGE_EVERY: Final = 90.0
_FIRST_LARGE: Final = (12.0, 36.0)
"""Seconds after which each large one comes for the first time: what it costs in memory belongs to the warm-up."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One: when, what, and for how long."""

    at: float
    kind: str
    seconds: float


def planned(duration: float, every: float, chance: random.Random) -> list[Fault]:
    """The faults of a run, in order. Runs too short for large ones get small ones only."""
    faults = [_fault(at, kind, chance) for at, kind in zip(_FIRST_LARGE, _LARGE, strict=True)]
    at, turn = _FIRST_LARGE[-1], 0
    while (at := at + _LARGE_EVERY) < duration:
        faults.append(_fault(at, _LARGE[turn % len(_LARGE)], chance))
        turn += 1
    at = every / 2
    faults.append(Fault(at, CUT_ALL, 0.0))
    while (at := at + every * chance.uniform(0.5, 1.5)) < duration:
        faults.append(_fault(at, chance.choices(list(_MIX), list(_MIX.values()))[0], chance))
    latest = duration - every / 2
    return sorted((each for each in faults if each.at + each.seconds <= latest), key=lambda each: each.at)


def _fault(at: float, kind: str, chance: random.Random) -> Fault:
    return Fault(at, kind, round(chance.uniform(*_SECONDS.get(kind, (0.0, 0.0))), 2))


class Mischief:
    """Carries a plan out, one fault after the other.

    Attributes:
        done: how many of each kind.
    """

    def __init__(self, plan: list[Fault], server: NatsServer, proxy: Proxy) -> None:
        self._plan = plan
        self._server = server
        self._proxy = proxy
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        """Return after the last one. A fault that is late because of the one before it comes at once."""
        clock = asyncio.get_running_loop().time
        began = clock()
        for fault in self._plan:
            await asyncio.sleep(max(0.0, began + fault.at - clock()))
            await self._do(fault)
            self.done[fault.kind] += 1

    async def _do(self, fault: Fault) -> None:
        if fault.kind == CUT_ONE:
            self._proxy.cut_one()
        elif fault.kind == CUT_ALL:
            self._proxy.cut_all()
        elif fault.kind == STALL:
            self._proxy.stall(fault.seconds)
            await asyncio.sleep(fault.seconds)
        elif fault.kind == RESTART:
            await self._server.restart()
        else:
            await self._server.freeze()
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                await self._server.thaw()
