"""Opening a consumer: what `ensure` means, and what a consumer or stream deleted underneath comes to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    ConfigDrift,
    ConsumerGone,
    ConsumerLimits,
    ConsumerNotFound,
    ConsumerOptions,
    InvalidOption,
    NoStream,
    StreamError,
    StreamNotFound,
)
from broker.testing.conformance.scene import WORKER, Conformance, Gate, a_stream, bodies, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker import Consumption, StreamBroker
    from broker.testing.conformance.scene import Connect


class OpeningConformance(Conformance):
    """Promises of `consume` about the consumer it works through."""

    async def test_consuming_where_no_stream_captures_is_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(NoStream):
            await sb.consume("nobody.captures.this", print, durable=WORKER)

    async def test_consuming_a_stream_that_is_not_there_is_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(StreamNotFound):
            await sb.consume("any.thing", print, durable=WORKER, stream="nowhere")

    async def test_verify_raises_drift_instead_of_working_with_other_settings(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", print, durable=WORKER, ack_wait=5, max_ack_pending=99)
        with pytest.raises(ConfigDrift) as caught:
            await sb.consume(f"{name}.a", print, durable=WORKER, ack_wait=7, max_ack_pending=99)
        assert caught.value.name == WORKER
        assert caught.value.differences == {"ack_wait": (7.0, 5.0)}

    async def test_a_worker_and_a_puller_share_a_durable_that_was_made_for_either(self, connect: Connect) -> None:
        """A puller's ``max_ack_pending`` is larger by default: who opens the other's durable says which it is."""
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.consumers.create(ConsumerOptions(stream=name, durable=WORKER, filters=[f"{name}.a"]))
        await sb.enqueue(f"{name}.a", 1)
        await (await sb.consume(f"{name}.a", seen.append, durable=WORKER)).drain()
        with pytest.raises(ConfigDrift, match="max_ack_pending"):
            await sb.pull(f"{name}.a", durable=WORKER).__aenter__()
        async with sb.pull(f"{name}.a", durable=WORKER, max_ack_pending=256) as puller:
            seen += await puller.fetch(1)
        assert bodies(seen) == [1]

    async def test_what_a_stream_allows_its_consumers_keeps_nobody_from_reading(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb, consumer_limits=ConsumerLimits(inactive_threshold=2.0, max_ack_pending=300))
        for number in range(3):
            await sb.enqueue(f"{name}.a", number)
        async with sb.read(f"{name}.a", until="end") as reader:
            assert [msg.json() async for msg in reader] == [0, 1, 2]
        await sb.consume(f"{name}.a", seen.append)
        await sb.push_subscribe(f"{name}.a", seen.append)
        await sb.push_subscribe(f"{name}.a", seen.append, ordered=True)
        await eventually(lambda: sorted(bodies(seen)) == [0, 0, 0, 1, 1, 1, 2, 2, 2], within=10)
        assert {info.config.threshold async for info in sb.consumers.list(name)} == {2.0}

    async def test_a_name_is_worked_through_in_lanes_or_not(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=2)
        for first in (True, False):
            group = f"group-{first}"
            worker = await sb.consume(f"{name}.a", print, queue=group, ordered=first)
            with pytest.raises(InvalidOption, match=name) as caught:
                await sb.consume(f"{name}.a", print, queue=group, ordered=not first)
            assert caught.value.option == "ordered"
            await worker.drain()
            await (await sb.consume(f"{name}.a", print, queue=group, ordered=first)).drain()

    async def test_nothing_is_left_of_one_that_ended_by_itself(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", gate.handle, durable=WORKER)
        others = asyncio.all_tasks()
        broken = await sb.consume(f"{name}.a", gate.handle, durable="broken", ack_wait=0.3)
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: gate.running == 2)
        await sb.streams.delete(name)
        for each in (worker, broken):
            with pytest.raises(StreamError):
                await each.wait()
        assert "failed" in repr(broken)
        assert gate.running == 2, "what is in hand comes to its own end"
        gate.open()
        await eventually(lambda: asyncio.all_tasks() <= others, within=10)

    async def test_update_brings_the_consumer_in_line(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", print, durable=WORKER, ack_wait=5)
        await sb.consume(f"{name}.a", print, durable=WORKER, ack_wait=7, max_ack_pending=50, ensure="update")
        config = (await sb.consumers.info(name, WORKER)).config
        assert (config.ack_wait, config.max_ack_pending) == (7.0, 50)

    async def test_bind_makes_no_consumer(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(ConsumerNotFound):
            await sb.consume(f"{name}.a", print, durable=WORKER, stream=name, ensure="bind")
        assert await listed(sb.consumers.names(name)) == []

    async def test_bind_works_on_what_is_there(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        first = await sb.consume(f"{name}.a", print, durable=WORKER)
        await first.drain()
        await sb.enqueue(f"{name}.a", 1)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER, stream=name, ensure="bind")
        await eventually(lambda: bodies(seen) == [1])

    async def test_a_consumer_deleted_under_it_is_made_again(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: len(seen) == 1)
        await sb.consumers.delete(name, WORKER)
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: 1 in bodies(seen))

    async def test_a_bound_consumption_that_waits_is_told_when_its_consumer_is_deleted(self, connect: Connect) -> None:
        sb = await connect()
        name, bound = await self._bound(sb, print)

        async def waiting() -> bool:
            return (await sb.consumers.info(name, WORKER)).waiting > 0

        await eventually(waiting)
        await sb.consumers.delete(name, WORKER)
        async with asyncio.timeout(5):
            with pytest.raises(ConsumerGone):
                await bound.wait()

    async def test_a_bound_consumption_that_was_busy_is_told_in_5_s_of_coming_back_for_more(
        self, connect: Connect
    ) -> None:
        sb, gate = await connect(), Gate()
        name, bound = await self._bound(sb, gate.handle, concurrency=1)
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: gate.running)
        await sb.consumers.delete(name, WORKER)
        gate.open()
        async with asyncio.timeout(5):
            with pytest.raises(ConsumerGone):
                await bound.wait()

    async def test_a_stream_deleted_under_it_is_not_silence(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: len(seen) == 1)
        await sb.streams.delete(name)
        async with asyncio.timeout(12):
            with pytest.raises(StreamError):
                await worker.wait()

    @pytest.mark.parametrize(
        "options",
        [
            {"concurrency": 0},
            {"max_deliver": 0},
            {"max_ack_pending": 0},
            {"ack_wait": 0},
            {"backoff": (-1,)},
            {"backoff": "fast"},
            {"ensure": "maybe"},
        ],
        ids=str,
    )
    async def test_bad_options_are_refused_and_make_nothing(self, connect: Connect, options: dict[str, Any]) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption):
            await sb.consume(f"{name}.a", print, durable=WORKER, **options)
        assert await listed(sb.consumers.names(name)) == []

    async def test_a_handler_that_cannot_be_called_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption):
            await sb.consume(f"{name}.a", "not a handler", durable=WORKER)  # type: ignore[arg-type]  # the case

    @staticmethod
    async def _bound(sb: StreamBroker, handler: Any, **options: Any) -> tuple[str, Consumption]:
        """A stream and a consumption bound to a consumer that is there."""
        name = await a_stream(sb)
        await (await sb.consume(f"{name}.a", print, durable=WORKER)).drain()
        bound = await sb.consume(f"{name}.a", handler, durable=WORKER, stream=name, ensure="bind", **options)
        return name, bound
