"""The benchmark: one server, every entrant in turn, round after round."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.server import NatsServer
from loadtest.bench_stream import delete_streams
from loadtest.runs import Run, run_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.workloads import Entrant, Workload

LIMIT: Final = 90.0
"""Seconds one run may take, its preparation included."""
_LEAST: Final = 100
WARM_UP: Final = 0


def scaled(workload: Workload, scale: float) -> int:
    """Messages per run at that scale."""
    return max(_LEAST, round(workload.count * scale))


def order(workload: Workload, turn: int) -> tuple[Entrant, ...]:
    """Who runs when: reversed every second round, so that whatever drifts meets everyone alike."""
    return workload.everyone if turn % 2 == 0 else workload.everyone[::-1]


class Bench:
    """Runs the workloads on a server of its own.

    Attributes:
        server_version: of the nats-server, known once it ran.
    """

    def __init__(
        self, workloads: Sequence[Workload], *, rounds: int, scale: float, told: Callable[[Run, int], None]
    ) -> None:
        self.server_version = ""
        self._workloads = workloads
        self._rounds = rounds
        self._scale = scale
        self._told = told

    async def run(self) -> list[Run]:
        """Every run in the order it happened, the warm-up (round 0) included.

        The server syncs at its default interval: an ack means that the operating system has the message. So the
        clients are measured, not the disk.
        """
        plan = [
            (entrant, workload, turn)
            for turn in range(WARM_UP, self._rounds + 1)
            for workload in self._workloads
            for entrant in order(workload, turn)
        ]
        async with NatsServer(sync_interval=None) as server:
            self.server_version = server.version
            return [await self._one(entrant, workload, server.url, turn) for entrant, workload, turn in plan]

    async def _one(self, entrant: Entrant, workload: Workload, url: str, turn: int) -> Run:
        count = scaled(workload, self._scale)
        run = await run_peer(entrant, workload, url=url, count=count, turn=turn, limit=LIMIT)
        try:
            await asyncio.to_thread(delete_streams, url)
        except OSError as exc:
            run = replace(run, void="; ".join(filter(None, (run.void, f"the server does not answer: {exc}"))))
        self._told(run, self._rounds)
        return run
