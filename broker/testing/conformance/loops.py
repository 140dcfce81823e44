"""Another event loop: a broker lives in one, and every verb says so at once instead of waiting for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker import BrokerError, ConsumerOptions, Entry, StreamOptions, Unsupported
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, bodies, fresh, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.testing.conformance.scene import Connect

Verbs = dict[str, "Callable[[], Awaitable[object]]"]

_AT_ONCE = 5.0
"""Seconds that count as at once on a busy machine; a future of another loop never comes."""


class LoopConformance(Conformance):
    """Promises to whoever calls from the wrong event loop, which mostly is another thread."""

    async def test_core_verbs_say_that_they_belong_to_another(self, connect: Connect) -> None:
        sb = await connect()
        subject = fresh("battle")
        listening = await sb.subscribe(subject)
        async with asyncio.timeout(_AT_ONCE):
            await sb.publish(subject, 1)
        verbs: Verbs = {
            "request": lambda: sb.request(subject, 1),
            "subscribe": lambda: sb.subscribe(subject, print),
            "respond": lambda: sb.respond(subject, print),
            "flush": sb.flush,
            "drain": lambda: sb.drain(1),
            "aclose": sb.aclose,
            "anext": lambda: anext(listening),
            "unsubscribe": listening.unsubscribe,
            "drain a subscription": listening.drain,
        }
        assert await accepted(verbs) == {}
        assert (await anext(listening)).json() == 1

    async def test_stream_verbs_say_that_they_belong_to_another(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        verbs: Verbs = {
            "declare": lambda: sb.declare(StreamOptions(name, [f"{name}.>"])),
            "enqueue": lambda: sb.enqueue(f"{name}.a", 1),
            "enqueue_many": lambda: sb.enqueue_many([Entry(f"{name}.a", 1)]),
            "enqueue_atomic": lambda: sb.enqueue_atomic([Entry(f"{name}.a", 1)]),
            "schedule": lambda: sb.schedule(f"{name}.a", 1, key="k", delay=5),
            "cancel": lambda: sb.cancel("k"),
            "counter": lambda: sb.counter(f"{name}.a"),
            "consume": lambda: sb.consume(f"{name}.a", print, durable="other"),
            "push_subscribe": lambda: sb.push_subscribe(f"{name}.a", print),
            "pull": lambda: entered(sb.pull(f"{name}.a", durable="other")),
            "read": lambda: entered(sb.read(f"{name}.a")),
            "streams.info": lambda: sb.streams.info(name),
            "streams.names": lambda: listed(sb.streams.names()),
            "streams.find": lambda: sb.streams.find(f"{name}.a"),
            "streams.get_message": lambda: sb.streams.get_message(name, 1),
            "streams.get_many": lambda: listed(sb.streams.get_many(name)),
            "streams.get_last_many": lambda: listed(sb.streams.get_last_many(name, [f"{name}.>"])),
            "streams.purge": lambda: sb.streams.purge(name),
            "streams.delete": lambda: sb.streams.delete(name),
            "consumers.create": lambda: sb.consumers.create(ConsumerOptions(stream=name, durable="other")),
            "consumers.info": lambda: sb.consumers.info(name, WORKER),
            "consumers.names": lambda: listed(sb.consumers.names(name)),
            "dead_letters.list": lambda: listed(sb.dead_letters.list()),
            "dead_letters.get": lambda: sb.dead_letters.get(1),
            "dead_letters.replay": lambda: sb.dead_letters.replay(1),
            "dead_letters.discard": lambda: sb.dead_letters.discard(1),
        }
        assert await accepted(verbs) == {}
        assert await listed(sb.consumers.names(name)) == []
        assert (await sb.enqueue(f"{name}.a", 1)).sequence == 1

    async def test_what_is_open_says_that_it_belongs_to_another(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(4):
            await sb.enqueue(f"{name}.a", number)
        async with sb.pull(f"{name}.a", durable=WORKER) as pulled, sb.read(f"{name}.a") as reader:
            [msg] = await pulled.fetch(1)
            assert (await anext(reader)).json() == 0
            verbs: Verbs = {
                "fetch": lambda: pulled.fetch(1, timeout=1),
                "next": lambda: pulled.next(timeout=1),
                "anext of a puller": lambda: anext(pulled),
                "anext of a reader": lambda: anext(reader),
                "ack": msg.ack,
                "confirmed ack": lambda: msg.ack(confirm=True),
                "nak": msg.nak,
                "term": msg.term,
                "in_progress": msg.in_progress,
            }
            assert await accepted(verbs) == {}
            await msg.ack(confirm=True)
            assert bodies(await pulled.fetch(1)) == bodies([await anext(reader)]) == [1]

    async def test_a_consumption_says_that_it_belongs_to_another(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name, laned = await a_stream(sb), await a_stream(sb, lanes=2)
        for stream, ordered in ((name, False), (laned, True)):
            seen.clear()
            worker = await sb.consume(f"{stream}.a", seen.append, durable=WORKER, ordered=ordered)
            verbs: Verbs = {each: getattr(worker, each) for each in ("wait", "pause", "resume", "drain")}
            assert await accepted(verbs) == {}
            await sb.enqueue(f"{stream}.a", 1, ordering_key="k")
            await eventually(lambda: bodies(seen) == [1], within=10)

    async def test_keys_say_that_they_belong_to_another(self, connect: Connect) -> None:
        sb, bucket = await connect(), fresh("bucket")
        keys = await sb.key_value(bucket)
        await keys.put("ann", 1)
        async with keys.watch() as watched:
            assert (await anext(watched)).json() == 1
            verbs: Verbs = {
                "key_value": lambda: sb.key_value(fresh("bucket")),
                "put": lambda: keys.put("ann", 2),
                "get": lambda: keys.get("ann"),
                "create": lambda: keys.create("bob", 1),
                "modify": lambda: keys.modify("ann", lambda _: 2),
                "delete": lambda: keys.delete("ann"),
                "keys": lambda: listed(keys.keys()),
                "watch": lambda: entered(keys.watch()),
                "anext of a watch": lambda: anext(watched),
                "buckets.names": lambda: listed(sb.buckets.names()),
                "buckets.info": lambda: sb.buckets.info(bucket),
            }
            assert await accepted(verbs) == {}
            await keys.put("ann", 2)
            async with asyncio.timeout(_AT_ONCE):
                assert (await anext(watched)).json() == 2


async def accepted(verbs: Verbs) -> dict[str, str]:
    """What came of those verbs, in another event loop, that did not say at once that it is the wrong one."""

    async def call() -> dict[str, str]:
        told: dict[str, str] = {}
        for name, verb in verbs.items():
            try:
                async with asyncio.timeout(_AT_ONCE):
                    told[name] = f"returned {await verb()!r}"
            except Unsupported as exc:
                if "another event loop" not in str(exc):
                    told[name] = repr(exc)
            except (BrokerError, RuntimeError, StopAsyncIteration, TimeoutError) as exc:
                told[name] = repr(exc)
        return told

    return await asyncio.to_thread(asyncio.run, call())


async def entered(context: Any) -> None:
    """Enter and leave."""
    async with context:
        pass
