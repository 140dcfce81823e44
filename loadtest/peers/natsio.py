"""natsio, written as its documentation does: ``consume()`` for streams, callbacks for subscriptions."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import natsio  # type: ignore[import-not-found]  # in its own environment
from natsio.jetstream import ConsumerConfig  # type: ignore[import-not-found]  # in its own environment

from loadtest.peers.scene import LIMIT, MAX_ACK_PENDING, PACE, Arrivals, OneWay, Scene, ask_all, in_time, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_UNBOUNDED = 10_000_000
"""Its default limit of 65,536 waiting messages would drop from a flood, which nobody could compare."""


@asynccontextmanager
async def _connected(scene: Scene) -> AsyncIterator[Any]:
    async with await natsio.connect(scene.url) as client:
        yield client
        scene.expect("reconnects", 0, client.stats.reconnects)


async def publish(scene: Scene) -> None:
    """``await nc.publish``, until the server has it all."""
    with scene.counter():
        async with _connected(scene) as client:
            with scene.measured():
                for _ in range(scene.count):
                    await client.publish(scene.subject, scene.body)
                await client.flush(LIMIT)


async def subscribe(scene: Scene) -> None:
    """An async callback."""
    with scene.flood() as flood:
        async with _connected(scene) as client:
            arrivals = Arrivals(scene)

            async def handle(_: Any) -> None:
                arrivals.add()

            client.subscribe(scene.subject, cb=handle, pending_msgs_limit=_UNBOUNDED, pending_bytes_limit=1 << 30)
            await client.flush(LIMIT)
            with scene.measured():
                flood.go()
                await arrivals.everything()


async def request(scene: Scene) -> None:
    """``nc.request``."""
    with scene.echo():
        async with _connected(scene) as client:

            async def ask(subject: str, body: bytes) -> bytes:
                answer: bytes = (await client.request(subject, body, timeout=LIMIT)).data
                return answer

            await ask_all(scene, ask)


async def append(scene: Scene) -> None:
    """``publish_async`` with a sliding window: when it is full, wait for the oldest only."""
    with scene.stream():
        async with _connected(scene) as client:
            js = client.jetstream()
            flying: deque[Any] = deque()
            with scene.measured():
                async with in_time():
                    for key in scene.ids:
                        if len(flying) >= scene.depth:
                            await flying.popleft()
                        flying.append(await js.publish_async(scene.subject, scene.body, msg_id=key))
                    while flying:
                        await flying.popleft()


async def append_awaited(scene: Scene) -> None:
    """``await js.publish``, one at a time."""
    with scene.stream():
        async with _connected(scene) as client:
            js = client.jetstream()
            with scene.measured():
                async with in_time():
                    for key in scene.ids:
                        await js.publish(scene.subject, scene.body, msg_id=key)


async def consume(scene: Scene) -> None:
    """``consume()`` and ``await msg.ack()`` for each."""
    with scene.stream(filled=True) as stream:
        async with _connected(scene) as client:
            js = client.jetstream()
            handled = 0
            with scene.measured():
                config = ConsumerConfig(durable_name="bench", max_ack_pending=MAX_ACK_PENDING)
                consumer = await (await js.stream(stream.name)).create_consumer(config)
                async with in_time(), consumer.consume() as messages:
                    async for message in messages:
                        await message.ack()
                        handled += 1
                        if handled == scene.count:
                            break
                await client.flush(LIMIT)
        scene.expect_settled(stream, "bench", handled)


async def latency(scene: Scene) -> None:
    """An async callback that reads the time."""
    async with _connected(scene) as client:
        arrivals = OneWay(scene)

        async def handle(message: Any) -> None:
            arrivals.note(message.data)

        client.subscribe(scene.rooms, cb=handle)
        await client.flush(LIMIT)
        await arrivals.measure("natsio")


async def pace(scene: Scene) -> None:
    """``await nc.publish`` when each is due."""
    async with _connected(scene) as client:
        async for subject, body in scene.due():
            await client.publish(subject, body)
        await client.flush(LIMIT)


if __name__ == "__main__":
    main(
        "natsio",
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
