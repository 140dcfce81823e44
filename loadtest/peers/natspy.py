"""nats-py, written as its documentation does; the baseline of every ratio."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import nats
from nats.js.api import ConsumerConfig

from loadtest.peers.scene import IN_FLIGHT, LIMIT, MAX_ACK_PENDING, WINDOW, Arrivals, Scene, in_time, main

if TYPE_CHECKING:
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
    """64 callers, each awaiting its reply."""
    with scene.echo():
        async with _connected(scene) as nc:
            turns = iter(range(scene.count))
            answered = 0

            async def ask() -> None:
                nonlocal answered
                for _ in turns:
                    reply = await nc.request(scene.subject, scene.body, timeout=LIMIT)
                    answered += reply.data == scene.body

            with scene.measured():
                async with asyncio.TaskGroup() as group:
                    for _ in range(IN_FLIGHT):
                        group.create_task(ask())
            scene.expect("answered", scene.count, answered)


async def append(scene: Scene) -> None:
    """``publish_async`` with a sliding window: when it is full, wait for the oldest only."""
    with scene.stream():
        async with _connected(scene) as nc:
            js = nc.jetstream()
            flying: deque[asyncio.Future[PubAck]] = deque()
            acks: list[PubAck] = []
            with scene.measured():
                async with in_time():
                    for index in range(scene.count):
                        if len(flying) >= WINDOW:
                            acks.append(await flying.popleft())
                        headers = {"Nats-Msg-Id": f"{scene.token}-{index}"}
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
                    for index in range(scene.count):
                        headers = {"Nats-Msg-Id": f"{scene.token}-{index}"}
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
        },
    )
