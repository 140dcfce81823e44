"""nats-py, written as its documentation does; the baseline of every ratio."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import nats
from nats.js.api import ConsumerConfig

from loadtest.peers.scene import LIMIT, MAX_ACK_PENDING, PACE, Arrivals, OneWay, Scene, ask_all, in_time, main

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.api import PubAck

_BATCH: Final = 500


@asynccontextmanager
async def _connected(scene: Scene) -> AsyncIterator[Client]:
    client = await nats.connect(scene.url)
    try:
        yield client
        scene.expect("reconnects", 0, client.stats["reconnects"])
    finally:
        await client.close()


async def publish(scene: Scene) -> None:
    """``await nc.publish``, until the server has it all."""
    with scene.counter():
        async with _connected(scene) as nc:
            with scene.measured():
                for _ in range(scene.count):
                    await nc.publish(scene.subject, scene.body)
                await nc.flush(int(LIMIT))


async def subscribe(scene: Scene) -> None:
    """An async callback, the only kind there is."""
    with scene.flood() as flood:
        async with _connected(scene) as nc:
            arrivals = Arrivals(scene)

            async def handle(_: Msg) -> None:
                arrivals.add()

            await nc.subscribe(scene.subject, cb=handle)
            await nc.flush()
            with scene.measured():
                flood.go()
                await arrivals.everything()


async def request(scene: Scene) -> None:
    """``nc.request``."""
    with scene.echo():
        async with _connected(scene) as nc:

            async def ask(subject: str, body: bytes) -> bytes:
                return (await nc.request(subject, body, timeout=LIMIT)).data

            await ask_all(scene, ask)


async def append(scene: Scene) -> None:
    """``publish_async`` with a sliding window: when it is full, wait for the oldest only."""
    with scene.stream():
        async with _connected(scene) as nc:
            js = nc.jetstream()
            flying: deque[asyncio.Future[PubAck]] = deque()
            acks: list[PubAck] = []
            with scene.measured():
                async with in_time():
                    for key in scene.ids:
                        if len(flying) >= scene.depth:
                            acks.append(await flying.popleft())
                        headers = {"Nats-Msg-Id": key}
                        flying.append(await js.publish_async(scene.subject, scene.body, headers=headers))
                    while flying:
                        acks.append(await flying.popleft())
            scene.expect("acks", scene.count, len(acks))


async def append_awaited(scene: Scene) -> None:
    """``await js.publish``, one at a time."""
    with scene.stream():
        async with _connected(scene) as nc:
            js = nc.jetstream()
            with scene.measured():
                async with in_time():
                    for key in scene.ids:
                        headers = {"Nats-Msg-Id": key}
                        await js.publish(scene.subject, scene.body, headers=headers)


async def consume(scene: Scene) -> None:
    """``fetch(500)`` and ``await msg.ack()`` for each, until everything is acked and the server has the acks."""
    with scene.stream(filled=True) as stream:
        async with _connected(scene) as nc:
            js = nc.jetstream()
            handled = 0
            with scene.measured():
                config = ConsumerConfig(max_ack_pending=MAX_ACK_PENDING)
                pull = await js.pull_subscribe(scene.subject, durable="bench", stream=stream.name, config=config)
                async with in_time():
                    while handled < scene.count:
                        for message in await pull.fetch(_BATCH, timeout=5):
                            await message.ack()
                            handled += 1
                await nc.flush()
        scene.expect_settled(stream, "bench", handled)


async def latency(scene: Scene) -> None:
    """An async callback that reads the time."""
    async with _connected(scene) as nc:
        arrivals = OneWay(scene)

        async def handle(message: Msg) -> None:
            arrivals.note(message.data)

        await nc.subscribe(scene.rooms, cb=handle)
        await nc.flush()
        await arrivals.measure("natspy")


async def pace(scene: Scene) -> None:
    """``await nc.publish`` when each is due."""
    async with _connected(scene) as nc:
        async for subject, body in scene.due():
            await nc.publish(subject, body)
        await nc.flush()


if __name__ == "__main__":
    main(
        "natspy",
        {
            "publish": publish,
            "subscribe": subscribe,
            "request": request,
            "append": append,
            "append-awaited": append_awaited,
            "consume": consume,
            "latency": latency,
            PACE: pace,
        },
    )
