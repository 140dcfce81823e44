"""Directs a run: starts everybody, has the planned faults happen, sees it all settled, and ends it in order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

from broker import BrokerError, StreamBroker, StreamOptions
from broker.server.errors import ServerError
from loadtest.chaos import orders
from loadtest.chaos.catalogue import DUPLICATE_WINDOW, KINDS
from loadtest.chaos.census import unsettled
from loadtest.chaos.crew import START_TIMEOUT, Crew
from loadtest.chaos.databases import database_of
from loadtest.chaos.histories import History, Op, now
from loadtest.chaos.injecting import Injector
from loadtest.chaos.progress import Progress
from loadtest.chaos.scenarios import SCENARIOS
from loadtest.chaos.servers import Servers
from loadtest.chaos.settlements import STREAM, SUBJECT, body_of, settlement_of
from loadtest.chaos.stage import NotFired, Stage
from services.children import Children

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from loadtest.chaos.databases import Database
    from loadtest.chaos.plan import Fault, Plan

NAME: Final = "director"
_TICK: Final = 1.0
_POLL: Final = 0.2


class Director:
    """One run in one directory."""

    def __init__(self, plan: Plan, directory: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._directory = directory
        self._say = say
        self._going_on: list[str] = []
        self._turns = {"server": asyncio.Lock(), "data": asyncio.Lock()}
        self._done = 0
        self._began = 0.0
        self.version = ""

    async def run(self) -> None:
        """Do all of it; what came of it lies in the directory, unjudged.

        Raises:
            ChildFailed, BrokerError, OSError: it could not be brought to its end.
        """
        self._plan.save(self._directory)
        database = await asyncio.to_thread(database_of, self._plan, self._directory)
        try:
            await database.open(self._directory)
            await self._direct(database)
            await asyncio.to_thread(database.keep)
        finally:
            await asyncio.to_thread(database.close)

    async def _direct(self, database: Database) -> None:
        with (
            History(self._directory, NAME) as messages,
            History(self._directory, NAME, pulse=True) as pulse,
        ):
            async with Servers(self._plan, self._directory / "store") as servers:
                self.version = servers.version
                self._say(f"nats-server {servers.version} at {servers.url}, durability {self._plan.durability}")
                async with StreamBroker.connect(servers.url, name=f"chaos-{NAME}") as broker:
                    await broker.declare(_stream(self._plan, servers))
                    with Children(self._directory, servers.url) as children:
                        producer = "producer" if self._plan.send == "direct" else "writer"
                        grace = self._plan.limits.grace
                        crew = Crew(self._directory, children, pulse, grace=grace, producer=producer)
                        inject = Injector(broker, messages)
                        await self._play(
                            Stage(self._plan, self._directory, database, servers, broker, crew, inject, messages, pulse)
                        )

    async def _play(self, stage: Stage) -> None:
        plan, crew = self._plan, stage.crew
        workers = [f"worker-{number}" for number in range(1, plan.workers + 1)]
        producers = [f"producer-{number}" for number in range(1, plan.producers + 1)]
        await crew.begin([*workers, "room", "idle"])
        await crew.begin(producers)
        self._began = asyncio.get_running_loop().time()
        showing = asyncio.ensure_future(self._show(Progress(crew, stage.database, len(plan.faults))))
        try:
            await self._under_fire(stage)
            await stage.inject.send("probe", body_of(settlement_of("probe")))
            if plan.send == "outbox":
                await self._finished(crew)
            await self._reconnected(crew)
            await crew.ask([*producers, "room", "idle"])
            await self._settled(stage.broker)
            await crew.ask(workers)
        finally:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing
        await crew.begin(["census"])
        code = await crew.over("census", START_TIMEOUT)
        crew.ended("census", "asked" if code is not None else "died")

    async def _under_fire(self, stage: Stage) -> None:
        """As long as was planned, and until every track has come to its end; the first error is raised."""
        try:
            async with asyncio.TaskGroup() as group:
                for track in _tracks(self._plan.faults):
                    group.create_task(self._carry_out(track, stage))
                group.create_task(asyncio.sleep(self._plan.seconds))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _carry_out(self, faults: Sequence[Fault], stage: Stage) -> None:
        """One after the other. One that is late because of the one before it comes at once."""
        for fault in faults:
            await asyncio.sleep(max(0.0, self._began + fault.at - asyncio.get_running_loop().time()))
            async with AsyncExitStack() as turns:
                kind = KINDS[fault.kind]
                for track, turn in self._turns.items():  # always in this order
                    if kind.alone or track == kind.track:
                        await turns.enter_async_context(turn)
                await self._strike(fault, stage)

    async def _strike(self, fault: Fault, stage: Stage) -> None:
        self._going_on.append(fault.kind)
        stage.pulse.write(Op.FAULT, number=fault.number, told=fault.kind)
        try:
            await SCENARIOS[fault.kind].play(fault, stage)
        except (NotFired, BrokerError) as exc:
            if isinstance(exc, ServerError):
                raise
            stage.pulse.write(Op.TROUBLE, number=fault.number, told=str(exc))
            self._say(f"fault {fault.number} ({fault.kind}) did not fire: {exc}")
        stage.healed(fault)
        self._going_on.remove(fault.kind)
        self._done += 1

    async def _finished(self, crew: Crew) -> None:
        """Have producers see everything settled that is in their outboxes; what is not, the checker will find."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._plan.limits.settling
        names = crew.names("producer")
        for name in names:
            orders.give(self._directory, name, orders.FINISH)
        while clock() < deadline:
            if all(_has_finished(crew, name) for name in names):
                return
            await asyncio.sleep(_POLL)

    async def _reconnected(self, crew: Crew) -> None:
        """Return when everybody who lives is connected, or has had the time to: whoever is not then, I12 is about.

        The last fault may have been over a moment ago, and who is asked to end tries no longer.
        """
        since, alive = now(), self._plan.limits.alive
        while adrift := crew.adrift(since):
            if now() > since + alive:
                self._say(f"not connected {alive:g} s after the last fault: {', '.join(adrift)}")
                return
            await asyncio.sleep(_POLL)

    async def _settled(self, broker: StreamBroker) -> None:
        """Return when nothing is left to settle, or when it takes too long: the census will tell."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._plan.limits.settling
        while clock() < deadline:
            with suppress(BrokerError):
                if not sum((await unsettled(broker)).values()):
                    return
            await asyncio.sleep(_POLL)

    async def _show(self, progress: Progress) -> None:
        clock = asyncio.get_running_loop().time
        shown = 0
        while True:
            shown += 1
            await asyncio.sleep(max(0.0, self._began + shown * _TICK - clock()))
            line = await asyncio.to_thread(progress.line, clock() - self._began, self._done, list(self._going_on))
            self._say(line)


def _has_finished(crew: Crew, name: str) -> bool:
    return any(event.counts.get("finished") for event in crew.pulse(name))


def _stream(plan: Plan, servers: Servers) -> StreamOptions:
    return StreamOptions(
        STREAM, [SUBJECT], duplicate_window=DUPLICATE_WINDOW, max_age=plan.keep, replicas=servers.replicas
    )


def _tracks(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Those of one track in order, each worker a track of its own."""
    tracks: dict[tuple[str, int], list[Fault]] = {}
    for fault in faults:
        tracks.setdefault((KINDS[fault.kind].track, fault.target), []).append(fault)
    return list(tracks.values())
