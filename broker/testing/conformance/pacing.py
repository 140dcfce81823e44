"""How fast and how much: messages and bytes per second, bytes on their way, replay at the original speed."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import Entry, InvalidOption
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, bodies, idle
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker.testing.conformance.scene import Connect


class PaceConformance(Conformance):
    """Promises of ``rate``, ``byte_rate``, ``max_bytes`` and ``speed``."""

    async def test_no_more_messages_per_second_than_asked(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(60))
        began = monotonic()
        await sb.consume(f"{name}.a", seen.append, durable=WORKER, rate=50)
        await eventually(lambda: len(seen) == 60, within=15)
        assert monotonic() - began >= (60 - 50 * 0.1) / 50 * 0.95, "5 at once, the others at 50 a second"
        assert bodies(seen) == list(range(60))

    async def test_a_slow_rate_still_lets_one_through_at_a_time(self, connect: Connect) -> None:
        sb, at = await connect(), list[float]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(4))
        await sb.consume(f"{name}.a", lambda _: at.append(monotonic()), durable=WORKER, rate=4)
        await eventually(lambda: len(at) == 4, within=15)
        assert at[3] - at[0] >= 3 / 4 * 0.9

    async def test_no_more_bytes_per_second_than_asked(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", b"x" * 1000) for _ in range(40))
        began = monotonic()
        await sb.consume(f"{name}.a", seen.append, durable=WORKER, byte_rate=40_000, concurrency=4)
        await eventually(lambda: len(seen) == 40, within=15)
        assert monotonic() - began >= 0.5, "40 kB at 40 kB a second, of which a tenth and one request may be early"

    async def test_what_the_rate_leaves_is_for_others(self, connect: Connect) -> None:
        sb, slow, quick = await connect(), list[Any](), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(50))
        await sb.consume(f"{name}.a", slow.append, durable=WORKER, rate=1)
        await eventually(lambda: slow)
        await (await connect()).consume(f"{name}.a", quick.append, durable=WORKER)
        await eventually(lambda: len(slow) + len(quick) == 50, within=10)
        assert len(quick) >= 40, "nothing is held only to wait"

    async def test_draining_does_not_wait_for_the_rate(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))
        worker = await sb.consume(f"{name}.a", seen.append, durable=WORKER, rate=0.01)
        await eventually(lambda: seen)
        async with asyncio.timeout(5):
            await worker.drain()
            await worker.wait()
        assert bodies(seen) == [0]

    async def test_asking_for_few_bytes_at_a_time_loses_nothing(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", b"x" * 1000) for _ in range(10))
        async with sb.pull(f"{name}.a", durable=WORKER, max_bytes=3500) as puller:
            got = list[Any]()
            async with asyncio.timeout(10):
                while len(got) < 10:
                    got += await puller.fetch(10, timeout=1)
            assert [(msg.sequence, msg.attempt) for msg in got] == [(n, 1) for n in range(1, 11)]

    async def test_a_message_larger_than_that_comes_alone(self, connect: Connect) -> None:
        sb, sizes = await connect(), list[int]()
        name = await a_stream(sb)
        for size in (100, 5000, 100, 6000, 7000, 100):
            await sb.enqueue(f"{name}.a", b"x" * size)
        await sb.consume(f"{name}.a", lambda msg: sizes.append(len(msg.data)), durable=WORKER, max_bytes=2000)
        await eventually(lambda: sizes == [100, 5000, 100, 6000, 7000, 100], within=10)
        await eventually(lambda: idle(sb, name, WORKER))

    async def test_reading_at_the_original_speed_keeps_the_pauses(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(4):
            await sb.enqueue(f"{name}.a", number)
            await asyncio.sleep(0.3)
        began = monotonic()
        async with sb.read(f"{name}.a", until=4, speed="original") as stored:
            assert bodies([each async for each in stored]) == [0, 1, 2, 3]
        assert monotonic() - began >= 0.85
        async with sb.read(f"{name}.a", until=4) as stored:
            assert bodies([each async for each in stored]) == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        "options", [{"rate": 0}, {"rate": "fast"}, {"byte_rate": -1}, {"max_bytes": 0}, {"max_bytes": 1.5}], ids=str
    )
    async def test_a_pace_that_makes_no_sense_is_refused(self, connect: Connect, options: dict[str, Any]) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption) as caught:
            await sb.consume("a", print, durable=WORKER, **options)
        assert caught.value.option in options
        with pytest.raises(InvalidOption):
            sb.read("a", speed="slow")  # type: ignore[arg-type] # a word that is none of them
