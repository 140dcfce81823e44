"""This library, written as its documentation does; the flavour is the link it speaks through."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from broker import Entry, Message, StreamBroker, StreamMessage
from loadtest.peers.scene import LIMIT, MAX_ACK_PENDING, PACE, Arrivals, OneWay, Scene, ask_all, in_time, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from broker.contracts.options import LinkChoice

_TICK: Final = 256
"""Messages a flooding loop publishes before it lets the event loop run."""
_ROOM: Final = 256 << 20
"""Outbound limit that holds a whole flood: ``publish_nowait`` never waits, so a smaller one would drop."""
_DEFAULT_ROOM: Final = 8 << 20


@asynccontextmanager
async def _connected(scene: Scene, outbound_limit: int = _DEFAULT_ROOM) -> AsyncIterator[StreamBroker]:
    link = cast("LinkChoice", scene.flavour) if scene.flavour else None
    async with StreamBroker.connect(scene.url, outbound_limit=outbound_limit, link=link) as broker:
        yield broker
        scene.expect("reconnects", 0, broker.stats.reconnects)


async def publish_nowait(scene: Scene) -> None:
    """``publish_nowait`` as a game loop does: a burst, then the event loop's turn; until the server has it all."""
    with scene.counter():
        async with _connected(scene, outbound_limit=_ROOM) as broker:
            with scene.measured():
                for start in range(0, scene.count, _TICK):
                    for _ in range(min(_TICK, scene.count - start)):
                        broker.publish_nowait(scene.subject, scene.body)
                    await asyncio.sleep(0)
                await broker.flush(LIMIT)
            scene.expect("dropped", 0, broker.stats.dropped_outbound)


async def publish(scene: Scene) -> None:
    """``await publish``, with the default limits, until the server has it all."""
    with scene.counter():
        async with _connected(scene) as broker:
            with scene.measured():
                for _ in range(scene.count):
                    await broker.publish(scene.subject, scene.body)
                await broker.flush(LIMIT)
            scene.expect("dropped", 0, broker.stats.dropped_outbound)


async def subscribe(scene: Scene) -> None:
    """A plain function as handler."""
    arrivals = Arrivals(scene)

    def handle(_: Message) -> None:
        arrivals.add()

    await _subscribe(scene, handle, arrivals)


async def subscribe_async(scene: Scene) -> None:
    """An ``async def`` handler."""
    arrivals = Arrivals(scene)

    async def handle(_: Message) -> None:
        arrivals.add()

    await _subscribe(scene, handle, arrivals)


async def _subscribe(scene: Scene, handler: Callable[[Message], Any], arrivals: Arrivals) -> None:
    with scene.flood() as flood:
        async with _connected(scene) as broker:
            await broker.subscribe(scene.subject, handler)
            with scene.measured():
                flood.go()
                await arrivals.everything()
            scene.expect("dropped", 0, broker.stats.dropped_inbound)


async def request(scene: Scene) -> None:
    """``await request``."""
    with scene.echo():
        async with _connected(scene) as broker:

            async def ask(subject: str, body: bytes) -> bytes:
                return (await broker.request(subject, body, timeout=LIMIT)).data

            await ask_all(scene, ask)


async def append(scene: Scene) -> None:
    """``enqueue_many``; the ids are made by the library."""
    await _append(scene, (Entry(scene.subject, scene.body) for _ in range(scene.count)))


async def append_keyed(scene: Scene) -> None:
    """``enqueue_many`` with the caller's own idempotency keys, which are stored beside the ids."""
    await _append(scene, (Entry(scene.subject, scene.body, idempotency_key=key) for key in scene.ids))


async def _append(scene: Scene, entries: Iterator[Entry]) -> None:
    with scene.stream():
        async with _connected(scene) as sb:
            with scene.measured():
                receipts = await sb.enqueue_many(entries, window=scene.depth, timeout=LIMIT)
            scene.expect("receipts", scene.count, len(receipts))
            scene.expect("sent again", 0, sb.stats.enqueue_retries)


async def append_awaited(scene: Scene) -> None:
    """``await enqueue``, one at a time."""
    with scene.stream():
        async with _connected(scene) as sb:
            with scene.measured():
                async with in_time():
                    for _ in range(scene.count):
                        await sb.enqueue(scene.subject, scene.body)


async def consume(scene: Scene) -> None:
    """``consume`` with a plain function: acked when it returns."""
    arrivals = Arrivals(scene)

    def handle(_: StreamMessage) -> None:
        arrivals.add()

    await _consume(scene, handle, arrivals)


async def consume_async(scene: Scene) -> None:
    """``consume`` with an ``async def`` handler and the default concurrency."""
    arrivals = Arrivals(scene)

    async def handle(_: StreamMessage) -> None:
        arrivals.add()

    await _consume(scene, handle, arrivals)


async def _consume(scene: Scene, handler: Callable[[StreamMessage], Any], arrivals: Arrivals) -> None:
    with scene.stream(filled=True) as stream:
        async with _connected(scene) as sb:
            with scene.measured():
                worker = await sb.consume(
                    scene.subject, handler, durable="bench", stream=stream.name, max_ack_pending=MAX_ACK_PENDING
                )
                await _first(arrivals.everything(), worker.wait())
                await worker.drain()
        scene.expect_settled(stream, "bench", arrivals.count)


async def latency(scene: Scene) -> None:
    """A plain function that reads the time."""
    async with _connected(scene) as broker:
        arrivals = OneWay(scene)

        def handle(message: Message) -> None:
            arrivals.note(message.data)

        await broker.subscribe(scene.rooms, handle)
        await broker.flush()
        await arrivals.measure("gamebroker")
        scene.expect("dropped", 0, broker.stats.dropped_inbound)


async def pace(scene: Scene) -> None:
    """``publish_nowait`` when each is due."""
    async with _connected(scene) as broker:
        async for subject, body in scene.due():
            broker.publish_nowait(subject, body)
        await broker.flush(LIMIT)
        scene.expect("dropped by the sender", 0, broker.stats.dropped_outbound)


async def _first(*awaited: Coroutine[Any, Any, None]) -> None:
    """Until one is over: a worker that died would otherwise be waited for in vain."""
    tasks = [asyncio.create_task(each) for each in awaited]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.wait(tasks)
    for task in done:
        task.result()


if __name__ == "__main__":
    main(
        "gamebroker",
        {
            "publish-nowait": publish_nowait,
            "publish": publish,
            "subscribe": subscribe,
            "subscribe-async": subscribe_async,
            "request": request,
            "append": append,
            "append-keyed": append_keyed,
            "append-awaited": append_awaited,
            "consume": consume,
            "consume-async": consume_async,
            "latency": latency,
            PACE: pace,
        },
    )
