"""Reading: stored messages in order and without a gap, from anywhere, with nothing to settle."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broker import ConnectionLost, Entry, InvalidOption, NoStream, Unsupported
from broker.testing.cancelling import cancelled_at
from broker.testing.conformance.scene import Conformance, a_stream, bodies, listed
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import StreamBroker
    from broker.testing.conformance.scene import Connect


class ReadConformance(Conformance):
    """Promises of ``read``: ordered, gap-free, from where it was told, and nothing to settle."""

    async def test_it_begins_at_the_first_and_goes_on_with_what_is_to_come(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>") as messages:
            assert bodies([await anext(messages) for _ in range(10)]) == list(range(10))
            waiting = asyncio.ensure_future(anext(messages))
            await never(waiting.done, during=0.05)
            await sb.enqueue(f"{name}.a", "live")
            async with asyncio.timeout(5):
                assert (await waiting).json() == "live"

    async def test_a_work_queue_is_not_read_beside_its_workers(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, retention="workqueue")
        await sb.enqueue(f"{name}.a", 1)
        for asked in ({}, {"stream": name}, {"start": "last"}, {"until": "end"}):
            with pytest.raises(Unsupported, match="work queue"):
                async with sb.read(f"{name}.a", **asked):  # type: ignore[arg-type]  # one of the options at a time
                    pass
        assert bodies(await listed(sb.streams.get_many(name))) == [1]

    async def test_the_last(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", start="last") as messages:
            assert (await anext(messages)).json() == 9

    async def test_only_new_ones(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", start="new") as messages:
            await sb.enqueue(f"{name}.a", "new")
            async with asyncio.timeout(5):
                assert (await anext(messages)).json() == "new"

    async def test_from_a_sequence(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", start=7, until=9) as messages:
            assert [m.sequence for m in await listed(messages)] == [7, 8, 9]

    async def test_from_a_time(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", "before")
        stored = await sb.streams.get_message(name, 1)
        assert stored is not None
        await asyncio.sleep(0.05)
        await sb.enqueue(f"{name}.a", "after")
        async with sb.read(f"{name}.a", start=stored.timestamp + timedelta(milliseconds=25)) as messages:
            assert (await anext(messages)).json() == "after"

    async def test_the_last_of_every_subject(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(9):
            await sb.enqueue(f"{name}.{number % 3}", number)
        async with sb.read(f"{name}.*", start="last_per_subject") as messages:
            assert bodies([await anext(messages) for _ in range(3)]) == [6, 7, 8]

    async def test_until_a_sequence_ends_after_it(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", until=4) as messages:
            async with asyncio.timeout(5):
                assert [m.sequence for m in await listed(messages)] == [1, 2, 3, 4]

    async def test_until_the_end_stops_after_what_is_stored_now(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", until="end") as messages:
            await sb.enqueue(f"{name}.a", "later")
            async with asyncio.timeout(5):
                assert bodies(await listed(messages)) == list(range(10))

    async def test_until_the_end_of_an_empty_stream_stops_at_once(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        async with sb.read(f"{name}.>", until="end") as messages:
            async with asyncio.timeout(5):
                assert await listed(messages) == []

    async def test_from_behind_the_last_one_wanted_stops_at_once(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", start=16, until=15) as messages:
            async with asyncio.timeout(5):
                assert await listed(messages) == []

    async def test_until_a_time_stops_before_what_came_later(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        stored = await sb.streams.get_message(name, 10)
        assert stored is not None
        await asyncio.sleep(0.05)
        await sb.enqueue(f"{name}.a", "later")
        async with sb.read(f"{name}.>", until=stored.timestamp + timedelta(milliseconds=25)) as messages:
            async with asyncio.timeout(5):
                assert bodies(await listed(messages)) == list(range(10))

    async def test_until_a_sequence_of_another_subject_ends_too(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for kind in "aab":
            await sb.enqueue(f"{name}.{kind}", kind)
        async with sb.read(f"{name}.a", until=3) as messages:
            async with asyncio.timeout(5):
                assert [m.sequence for m in await listed(messages)] == [1, 2]

    async def test_only_its_subject(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(6):
            await sb.enqueue(f"{name}.{number % 2}", number)
        async with sb.read(f"{name}.1", until=6) as messages:
            assert bodies(await listed(messages)) == [1, 3, 5]

    async def test_two_readers_each_see_everything(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", until=10) as one, (await connect()).read(f"{name}.>", until=10) as two:
            assert bodies(await listed(one)) == bodies(await listed(two)) == list(range(10))

    async def test_reading_takes_nothing_from_the_workers(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", until=10) as messages:
            await listed(messages)
        async with sb.pull(f"{name}.>", durable="worker") as puller:
            assert len(await puller.fetch(100, timeout=2)) > 0
        assert (await sb.streams.info(name)).messages == 10

    async def test_a_thousand_come_in_order_without_a_gap(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(1_000))
        async with sb.read(f"{name}.a", until=1_000) as messages:
            assert [m.sequence for m in await listed(messages)] == list(range(1, 1_001))

    async def test_it_restarts_itself_after_its_last_sequence(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>") as messages:
            seen = [await anext(messages) for _ in range(5)]
            for consumer in await listed(sb.consumers.names(name)):
                await sb.consumers.delete(name, consumer)
            await sb.enqueue(f"{name}.a", 10)
            async with asyncio.timeout(10):
                seen += [await anext(messages) for _ in range(6)]
        assert bodies(seen) == list(range(11))

    async def test_cancelled_while_it_restarts_it_goes_on_with_the_next_step(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        for wait in range(6):
            async with sb.read(f"{name}.>") as messages:
                seen = [await anext(messages) for _ in range(5)]
                for consumer in await listed(sb.consumers.names(name)):
                    await sb.consumers.delete(name, consumer)
                with suppress(ConnectionLost):
                    for late in (False, True):
                        cut = await cancelled_at(lambda: anext(messages), wait, late=late)
                        seen += [cut.result] if cut.result is not None else []
                async with asyncio.timeout(15):
                    seen += [await anext(messages) for _ in range(10 - len(seen))]
            assert bodies(seen) == list(range(10))

    async def test_waiting_for_new_ones_it_misses_none_when_it_has_to_restart(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>", start="new") as messages:
            reading = asyncio.ensure_future(anext(messages))
            await never(reading.done, during=0.05)
            for consumer in await listed(sb.consumers.names(name)):
                await sb.consumers.delete(name, consumer)
            await sb.enqueue(f"{name}.a", "new")
            async with asyncio.timeout(10):
                assert (await reading).json() == "new"

    async def test_what_was_read_cannot_be_settled(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>") as messages:
            message = await anext(messages)
        for settle in (message.ack, message.nak, message.term, message.in_progress):
            with pytest.raises(Unsupported):
                await settle()

    async def test_a_message_that_is_read_tells_all_about_itself(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", b"body", idempotency_key="k")
        async with sb.read(f"{name}.a") as messages:
            message = await anext(messages)
        assert (message.stream, message.sequence, message.subject) == (name, 1, f"{name}.a")
        assert (message.data, message.idempotency_key, message.pending) == (b"body", "k", 0)
        assert abs(datetime.now(UTC) - message.timestamp) < timedelta(minutes=5)

    async def test_leaving_it_leaves_no_consumer_behind(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._ten(sb)
        async with sb.read(f"{name}.>") as messages:
            await anext(messages)

        async def none_left() -> bool:
            return await listed(sb.consumers.names(name)) == []

        await eventually(none_left)

    async def test_a_cancelled_read_loses_nothing(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        async with sb.read(f"{name}.>") as messages:
            for number in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await anext(messages)
                await sb.enqueue(f"{name}.a", number)
                async with asyncio.timeout(5):
                    assert (await anext(messages)).json() == number

    async def test_a_subject_no_stream_captures_is_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(NoStream):
            async with sb.read("nobody.captures.this") as messages:
                await anext(messages)

    @pytest.mark.parametrize("start", ["middle", 0, -1, 1.5, datetime(2026, 1, 1)])  # noqa: DTZ001 - a naive one is the case
    async def test_a_place_that_is_none_is_refused(self, connect: Connect, start: Any) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption):
            async with sb.read(f"{name}.>", start=start):
                pass

    @staticmethod
    async def _ten(sb: StreamBroker) -> str:
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))
        return name
