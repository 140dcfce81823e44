"""A connection from its first to its last moment, and what it counts on the way."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import Broker, BrokerClosed, BytesCodec, MsgpackCodec, Status, StreamBroker, StreamOptions
from broker.testing.conformance.scene import Conformance, Gate, a_stream, fresh, idle
from broker.testing.conformance.sending import every_verb_that_sends
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.testing.conformance.scene import Connect
    from broker.testing.conformance.sending import Send


class LifecycleConformance(Conformance):
    """Promises of ``connect``, ``status``, ``drain``, ``aclose`` and ``stats``."""

    async def test_a_new_connection_is_connected_and_has_counted_nothing(self, connect: Connect) -> None:
        sb = await connect()
        assert sb.status is Status.CONNECTED
        assert set(sb.stats.as_dict().values()) == {0}

    async def test_a_stream_broker_is_a_broker(self, connect: Connect) -> None:
        sb = await connect()
        assert isinstance(sb, StreamBroker)
        assert isinstance(sb, Broker)

    async def test_closing_twice_is_fine(self, connect: Connect) -> None:
        sb = await connect()
        for _ in range(2):
            async with asyncio.timeout(5):
                await sb.aclose()
        assert sb.status == "closed"

    async def test_draining_twice_and_after_closing_is_fine(self, connect: Connect) -> None:
        sb = await connect()
        async with asyncio.timeout(5):
            await asyncio.gather(sb.drain(), sb.drain())
            await sb.drain()
            await sb.aclose()
            await sb.drain()
        assert sb.status == "closed"

    async def test_status_changes_begin_now_and_end_with_closed(self, connect: Connect) -> None:
        sb = await connect()
        seen: list[Status] = []

        async def watch() -> None:
            async for status in sb.status_changes():
                seen.append(status)  # noqa: PERF401 - what came so far is looked at meanwhile

        watching = asyncio.create_task(watch())
        await eventually(lambda: seen == ["connected"])
        await sb.drain()
        async with asyncio.timeout(5):
            await watching
        assert seen == ["connected", "draining", "closed"]

    async def test_it_says_draining_while_it_drains(self, connect: Connect) -> None:
        sb, gate, subject = await connect(), Gate(), fresh("battle")
        await sb.subscribe(subject, gate.handle)
        await sb.publish(subject, 1)
        await eventually(lambda: gate.started)
        draining = asyncio.create_task(sb.drain())
        await eventually(lambda: sb.status == "draining")
        gate.open()
        async with asyncio.timeout(5):
            await draining
        assert len(gate.finished) == 1
        assert sb.status == "closed"

    async def test_drain_handles_what_had_arrived(self, connect: Connect) -> None:
        sb, gate, subject = await connect(), Gate(), fresh("battle")
        subscription = await sb.subscribe(subject, gate.handle)
        for tick in range(10):
            await sb.publish(subject, tick)
        await eventually(lambda: subscription.pending == 9)
        draining = asyncio.create_task(sb.drain())
        await asyncio.sleep(0.02)
        gate.open()
        async with asyncio.timeout(5):
            await draining
        assert len(gate.finished) == 10

    async def test_drain_keeps_to_its_time_out(self, connect: Connect) -> None:
        sb, gate, subject = await connect(), Gate(), fresh("battle")
        await sb.subscribe(subject, gate.handle)
        await sb.publish(subject, 1)
        await eventually(lambda: gate.started)
        began = monotonic()
        await sb.drain(timeout=0.2)
        assert monotonic() - began < 5
        assert (gate.running, gate.finished, sb.status) == (0, [], "closed")

    @pytest.mark.parametrize("ending", ["drain", "aclose"])
    async def test_what_was_published_before_the_end_arrives(self, connect: Connect, ending: str) -> None:
        room, player, subject, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        await player.subscribe(subject, seen.append)
        for tick in range(100):
            room.publish_nowait(subject, tick)
        await getattr(room, ending)()
        await eventually(lambda: len(seen) == 100)

    async def test_closing_ends_running_handlers_at_once(self, connect: Connect) -> None:
        sb, gate, subject = await connect(), Gate(), fresh("battle")
        await sb.subscribe(subject, gate.handle)
        await sb.publish(subject, 1)
        await eventually(lambda: gate.running)
        async with asyncio.timeout(5):
            await sb.aclose()
        assert (gate.running, gate.finished) == (0, [])

    async def test_one_connection_closed_leaves_the_other(self, connect: Connect) -> None:
        one, two, subject, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        await two.subscribe(subject, seen.append)
        await one.aclose()
        await two.publish(subject, 1)
        await eventually(lambda: seen)
        assert two.status is Status.CONNECTED

    @every_verb_that_sends
    async def test_sending_when_closed_is_refused(self, connect: Connect, send: Send) -> None:
        sb = await connect()
        await sb.aclose()
        with pytest.raises(BrokerClosed):
            await send(sb, "a.b", b"x")

    @pytest.mark.parametrize(
        "use",
        [
            lambda sb: sb.subscribe("a", print),
            lambda sb: sb.respond("a", print),
            lambda sb: sb.flush(),
            lambda sb: sb.declare(StreamOptions("s", ["s"])),
            lambda sb: sb.consume("a", print, durable="w"),
            lambda sb: sb.streams.info("s"),
            lambda sb: sb.consumers.info("s", "w"),
            lambda sb: sb.pull("a", durable="w").__aenter__(),
            lambda sb: sb.read("a").__aenter__(),
            lambda sb: anext(aiter(sb.streams.names())),
            lambda sb: anext(aiter(sb.dead_letters.list())),
            lambda sb: anext(aiter(sb.request_many("a", b""))),
        ],
        ids=[
            "subscribe",
            "respond",
            "flush",
            "declare",
            "consume",
            "streams",
            "consumers",
            "pull",
            "read",
            "names",
            "dead_letters",
            "request_many",
        ],
    )
    async def test_every_other_verb_when_closed_is_refused(
        self, connect: Connect, use: Callable[[StreamBroker], Awaitable[object]]
    ) -> None:
        sb = await connect()
        await sb.aclose()
        with pytest.raises(BrokerClosed):
            await use(sb)

    async def test_an_iterated_puller_ends_when_the_broker_closes(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)

        async def pull() -> None:
            async with sb.pull(f"{name}.a", durable="w") as puller:
                async for _ in puller:
                    pass

        pulling = asyncio.create_task(pull())
        await never(pulling.done, during=0.05)
        await sb.aclose()
        async with asyncio.timeout(5):
            [outcome] = await asyncio.gather(pulling, return_exceptions=True)
        assert outcome is None or isinstance(outcome, BrokerClosed)

    async def test_a_reader_ends_when_the_broker_closes(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)

        async def read() -> None:
            async with sb.read(f"{name}.a") as messages:
                async for _ in messages:
                    pass

        reading = asyncio.create_task(read())
        await never(reading.done, during=0.05)
        await sb.aclose()
        async with asyncio.timeout(5):
            [outcome] = await asyncio.gather(reading, return_exceptions=True)
        assert outcome is None or isinstance(outcome, BrokerClosed)

    async def test_a_cancelled_flush_leaves_the_connection_usable(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        for _ in range(5):
            flushing = asyncio.create_task(sb.flush())
            await asyncio.sleep(0)
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
        await sb.publish(subject, 1)
        await sb.flush()
        await eventually(lambda: seen)

    async def test_a_cancelled_subscribe_leaves_no_subscription(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        for _ in range(5):
            subscribing = asyncio.create_task(sb.subscribe(subject, seen.append))
            await asyncio.sleep(0)
            subscribing.cancel()
            [outcome] = await asyncio.gather(subscribing, return_exceptions=True)
            if not isinstance(outcome, BaseException):  # it had got through
                await outcome.unsubscribe()
        await sb.publish(subject, 1)
        await sb.flush()
        await never(lambda: seen, during=0.05)

    async def test_a_cancelled_consume_leaves_no_worker(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        for _ in range(5):
            starting = asyncio.create_task(sb.consume(f"{name}.a", seen.append, durable="w", ack_wait=30))
            await asyncio.sleep(0)
            starting.cancel()
            [outcome] = await asyncio.gather(starting, return_exceptions=True)
            if not isinstance(outcome, BaseException):  # it had got through
                await outcome.drain()
        await sb.enqueue(f"{name}.a", 1)
        await never(lambda: seen, during=0.05)
        await sb.consume(f"{name}.a", seen.append, durable="w", ack_wait=30)
        await eventually(lambda: len(seen) == 1)

    async def test_a_cancelled_publish_leaves_the_connection_usable(self, connect: Connect) -> None:
        sb, subject, seen = await connect(outbound_limit=64 << 10), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)

        async def flood() -> None:
            while True:
                await sb.publish(f"{subject}.flood", b"x" * 10_000)

        flooding = asyncio.create_task(flood())
        await never(flooding.done, during=0.05)
        flooding.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await flooding
        await sb.publish(subject, "after")
        await eventually(lambda: seen)

    async def test_core_messages_are_counted(self, connect: Connect) -> None:
        room, player, subject, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        await player.subscribe(subject, seen.append)
        room.publish_nowait(subject, 1)
        await room.publish(subject, 2)
        await eventually(lambda: player.stats.received == 2)
        assert (room.stats.published, room.stats.received, room.stats.dropped_outbound) == (2, 0, 0)

    async def test_stream_messages_are_counted(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)

        async def handle(msg: Any) -> None:
            if msg.json() == "bad" or (msg.json() == "once" and msg.attempt == 1):
                raise ValueError(msg.json())

        await sb.consume(f"{name}.a", handle, durable="w", max_deliver=2, backoff=(0.02,))
        for body in ("good", "once", "bad"):
            await sb.enqueue(f"{name}.a", body)
        await eventually(lambda: idle(sb, name, "w"))
        stats = sb.stats
        assert (stats.delivered, stats.redelivered, stats.acked, stats.naked) == (5, 2, 2, 2)
        assert (stats.handler_errors, stats.dead_lettered, stats.terminated) == (3, 1, 1)

    @pytest.mark.parametrize("codec", [MsgpackCodec(), BytesCodec()], ids=["msgpack", "bytes"])
    async def test_the_codec_is_the_callers_choice(self, connect: Connect, codec: Any) -> None:
        sb, subject, seen = await connect(codec=codec), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        body = b"raw" if isinstance(codec, BytesCodec) else {"n": [1, 2.5, None, "ä"]}
        await sb.publish(subject, body)
        await eventually(lambda: seen)
        assert seen[0].decode(type(body)) == body

    async def test_replies_come_under_the_inbox_prefix(self, connect: Connect) -> None:
        asker, answerer, subject, seen = await connect(inbox_prefix="_INBOX_room"), await connect(), fresh("rpc"), []
        await answerer.respond(subject, lambda msg: seen.append(msg.reply_to))
        await asker.request(subject, b"")
        assert [str(reply_to).split(".")[0] for reply_to in seen] == ["_INBOX_room"]
