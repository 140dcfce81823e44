"""The benchmark: one server, every entrant in turn, round after round."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.server import NatsServer
from loadtest.bench_stream import delete_streams
from loadtest.runs import Run, run_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loadtest.workloads import Entrant, Workload

    Turn = tuple[Entrant, Workload, int]

ENOUGH: Final = 5
"""Rounds below which medians and spreads say little."""
LIMIT: Final = 90.0
"""Seconds one run may take, its preparation included."""
_LEAST: Final = 100
WARM_UP: Final = 0
_WARM_UP_SCALE: Final = 0.1


def scaled(workload: Workload, entrant: Entrant, scale: float) -> int:
    """Messages of an entrant's run at that scale."""
    return max(_LEAST, round(workload.count * entrant.portion * scale))


def order(entrants: Sequence[Entrant], turn: int) -> Sequence[Entrant]:
    """Who runs when: reversed every second round, so that whatever drifts meets everyone alike."""
    return entrants if turn % 2 == 0 else entrants[::-1]


def plan(workloads: Sequence[Workload], present: Mapping[str, str], rounds: int) -> list[Turn]:
    """Every run in its order: the first workload once to warm up, then everything ``rounds`` times.

    In a measurement, what a bar judges runs twice as often: its verdict must not hang on one noisy run.
    """
    last = rounds * 2 if rounds >= ENOUGH else rounds
    everyone = [(each, each.entrants) for each in workloads]
    judged = [(each, each.judged) for each in workloads]
    turns = [
        (WARM_UP, everyone[:1]),
        *((turn, everyone) for turn in range(1, rounds + 1)),
        *((turn, judged) for turn in range(rounds + 1, last + 1)),
    ]
    return [
        (entrant, workload, turn)
        for turn, chosen in turns
        for workload, entrants in chosen
        for entrant in order(entrants, turn)
        if entrant.peer in present
    ]


class Bench:
    """Runs the workloads on a server of its own.

    Attributes:
        server_version: of the nats-server, known once it ran.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        present: Mapping[str, str],
        *,
        rounds: int,
        scale: float,
        told: Callable[[Run, int, int], None],
    ) -> None:
        """Take workloads, the interpreter of each peer that is here, and who is told of each run and its place."""
        self.server_version = ""
        self._plan = plan(workloads, present, rounds)
        self._present = present
        self._scale = scale
        self._told = told

    async def run(self) -> list[Run]:
        """Every run in the order it happened, the warm-up (round 0) included.

        The server syncs at its default interval: an ack means that the operating system has the message. So the
        clients are measured, not the disk.
        """
        async with NatsServer(sync_interval=None) as server:
            self.server_version = server.version
            return [await self._one(turn, server.url, place) for place, turn in enumerate(self._plan, start=1)]

    async def _one(self, what: Turn, url: str, place: int) -> Run:
        entrant, workload, turn = what
        count = scaled(workload, entrant, self._scale * (_WARM_UP_SCALE if turn == WARM_UP else 1))
        python = self._present[entrant.peer]
        run = await run_peer(entrant, workload, url=url, count=count, turn=turn, limit=LIMIT, python=python)
        try:
            await asyncio.to_thread(delete_streams, url)
        except OSError as exc:
            run = replace(run, void="; ".join(filter(None, (run.void, f"the server does not answer: {exc}"))))
        self._told(run, place, len(self._plan))
        return run
