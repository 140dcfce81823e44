"""FastStream on its NATS broker, without its logger and its dependency injection, which it lets one turn off."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from faststream.nats import JStream, NatsBroker, PullSub  # type: ignore[import-not-found]  # in its own environment
from nats.js.api import ConsumerConfig

from loadtest.peers.scene import LIMIT, MAX_ACK_PENDING, PACE, Arrivals, OneWay, Scene, ask_all, in_time, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_BATCH = 500


def _broker(scene: Scene) -> Any:
    return NatsBroker(scene.url, logger=None, apply_types=False)


@asynccontextmanager
async def _started(broker: Any) -> AsyncIterator[Any]:
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


async def publish(scene: Scene) -> None:
    """``await broker.publish``, until the server has it all."""
    with scene.counter():
        async with _started(_broker(scene)) as broker:
            with scene.measured():
                for _ in range(scene.count):
                    await broker.publish(scene.body, scene.subject)
                await (await broker.connect()).flush()


async def subscribe(scene: Scene) -> None:
    """A subscriber function."""
    arrivals = Arrivals(scene)
    broker = _broker(scene)

    async def handle(_: Any) -> None:
        arrivals.add()

    broker.subscriber(scene.subject)(handle)
    with scene.flood() as flood:
        async with _started(broker):
            await (await broker.connect()).flush()
            with scene.measured():
                flood.go()
                await arrivals.everything()


async def request(scene: Scene) -> None:
    """``broker.request``."""
    with scene.echo():
        async with _started(_broker(scene)) as broker:

            async def ask(subject: str, body: bytes) -> bytes:
                answer: bytes = (await broker.request(body, subject, timeout=LIMIT)).body
                return answer

            await ask_all(scene, ask)


async def append(scene: Scene) -> None:
    """``await broker.publish(stream=)`` by as many tasks as may be in flight: it has no other pipelining."""
    with scene.stream() as stream:
        async with _started(_broker(scene)) as broker:
            keys = scene.ids

            async def store() -> None:
                for key in keys:
                    headers = {"Nats-Msg-Id": key}
                    await broker.publish(scene.body, scene.subject, headers=headers, stream=stream.name, timeout=LIMIT)

            with scene.measured():
                async with in_time(), asyncio.TaskGroup() as group:
                    for _ in range(scene.depth):
                        group.create_task(store())


async def consume(scene: Scene) -> None:
    """A pull subscriber with batches of 500, acked when the function returns."""
    arrivals = Arrivals(scene)
    broker = _broker(scene)

    async def handle(_: Any) -> None:
        arrivals.add()

    with scene.stream(filled=True) as stream:
        config = ConsumerConfig(max_ack_pending=MAX_ACK_PENDING)
        source = JStream(stream.name, declare=False)
        pulls = PullSub(batch_size=_BATCH)
        broker.subscriber(scene.subject, stream=source, pull_sub=pulls, durable="bench", config=config)(handle)
        with scene.measured():
            await broker.start()
            await arrivals.everything()
            await (await broker.connect()).flush()
        await broker.stop()
        scene.expect_settled(stream, "bench", arrivals.count)


async def latency(scene: Scene) -> None:
    """A subscriber function that reads the time."""
    arrivals = OneWay(scene)
    broker = _broker(scene)

    async def handle(body: Any) -> None:
        arrivals.note(body)

    broker.subscriber(scene.rooms)(handle)
    async with _started(broker):
        await (await broker.connect()).flush()
        await arrivals.measure("faststream")


async def pace(scene: Scene) -> None:
    """``await broker.publish`` when each is due."""
    async with _started(_broker(scene)) as broker:
        async for subject, body in scene.due():
            await broker.publish(body, subject)
        await (await broker.connect()).flush()


if __name__ == "__main__":
    main(
        "faststream",
        {
            "publish": publish,
            "subscribe": subscribe,
            "request": request,
            "append": append,
            "consume": consume,
            "latency": latency,
            PACE: pace,
        },
    )
