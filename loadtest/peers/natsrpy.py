"""natsrpy: a Rust client, every call of which returns a future that is awaited."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from natsrpy import Nats  # type: ignore[import-not-found]  # in its own environment
from natsrpy.js import PullConsumerConfig  # type: ignore[import-not-found]  # in its own environment

from loadtest.peers.scene import MAX_ACK_PENDING, PACE, Arrivals, OneWay, Scene, ask_all, in_time, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_BATCH = 500


@asynccontextmanager
async def _connected(scene: Scene) -> AsyncIterator[Any]:
    client = Nats([scene.url])
    await client.startup()
    try:
        yield client
    finally:
        await client.shutdown()


async def publish(scene: Scene) -> None:
    """``await nats.publish``, until the server has it all."""
    with scene.counter():
        async with _connected(scene) as client:
            with scene.measured():
                for _ in range(scene.count):
                    await client.publish(scene.subject, scene.body)
                await client.flush()


async def subscribe(scene: Scene) -> None:
    """An async callback."""
    with scene.flood() as flood:
        async with _connected(scene) as client:
            arrivals = Arrivals(scene)

            async def handle(_: Any) -> None:
                arrivals.add()

            async with client.subscribe(scene.subject, callback=handle):
                await client.flush()
                with scene.measured():
                    flood.go()
                    await arrivals.everything()


async def request(scene: Scene) -> None:
    """``nats.request``."""
    with scene.echo():
        async with _connected(scene) as client:

            async def ask(subject: str, body: bytes) -> bytes:
                answer: bytes = (await client.request(subject, body)).payload
                return answer

            await ask_all(scene, ask)


async def append(scene: Scene) -> None:
    """``js.publish(wait=True)`` with a sliding window: when it is full, wait for the oldest only."""
    with scene.stream():
        async with _connected(scene) as client:
            js = await client.jetstream()
            flying: deque[Any] = deque()
            with scene.measured():
                async with in_time():
                    for key in scene.ids:
                        if len(flying) >= scene.depth:
                            await flying.popleft()
                        headers = {"Nats-Msg-Id": key}
                        flying.append(js.publish(scene.subject, scene.body, headers=headers, wait=True))
                    while flying:
                        await flying.popleft()


async def consume(scene: Scene) -> None:
    """``fetch(500)`` and ``await message.ack()`` for each."""
    with scene.stream(filled=True) as stream:
        async with _connected(scene) as client:
            js = await client.jetstream()
            handled = 0
            with scene.measured():
                config = PullConsumerConfig(durable_name="bench", max_ack_pending=MAX_ACK_PENDING)
                consumer = await (await js.streams.get(stream.name)).consumers.create(config)
                async with in_time():
                    while handled < scene.count:
                        for message in await consumer.fetch(_BATCH, timeout=5):
                            await message.ack()
                            handled += 1
                await client.flush()
        scene.expect_settled(stream, "bench", handled)


async def latency(scene: Scene) -> None:
    """An async callback that reads the time."""
    async with _connected(scene) as client:
        arrivals = OneWay(scene)

        async def handle(message: Any) -> None:
            arrivals.note(message.payload)

        async with client.subscribe(scene.rooms, callback=handle):
            await client.flush()
            await arrivals.measure("natsrpy")


async def pace(scene: Scene) -> None:
    """``await nats.publish`` when each is due."""
    async with _connected(scene) as client:
        async for subject, body in scene.due():
            await client.publish(subject, body)
        await client.flush()


if __name__ == "__main__":
    main(
        "natsrpy",
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
