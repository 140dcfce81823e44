"""Pulling: what is asked for, when it is there, and nothing settled by itself."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import AlreadySettled, Entry, InvalidOption, NoStream, StreamError
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, bodies, idle
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import StreamBroker, StreamMessage
    from broker.testing.conformance.scene import Connect


class PullConformance(Conformance):
    """Promises of ``pull``: what is asked for, when it is there, and nothing settled by itself."""

    async def test_fetch_gives_what_is_there_up_to_the_number(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._five(sb)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            first = await self._fetch(puller, 3)
            assert bodies(first) == [0, 1, 2]
            assert bodies(await self._fetch(puller, 2)) == [3, 4]

    async def test_an_empty_fetch_is_an_empty_list_in_time(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            began = monotonic()
            assert await puller.fetch(10, timeout=0.2) == []
            assert 0.15 < monotonic() - began < 2

    async def test_a_fetch_waits_for_what_is_to_come(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            fetching = asyncio.create_task(puller.fetch(10, timeout=10))
            await never(fetching.done, during=0.05)
            await sb.enqueue(f"{name}.a", "late")
            async with asyncio.timeout(5):
                assert bodies(await fetching) == ["late"]

    async def test_next_gives_one_or_none_in_time(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._five(sb)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            for number in range(5):
                message = await puller.next(timeout=5)
                assert message is not None
                assert message.json() == number
            assert await puller.next(timeout=0.1) is None

    async def test_it_can_be_iterated(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await self._five(sb)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            async for message in puller:
                seen.append(message.json())
                await message.ack()
                if len(seen) == 5:
                    break
        assert seen == list(range(5))
        await eventually(lambda: idle(sb, name, WORKER))

    async def test_iterating_goes_on_where_it_was_left(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await self._five(sb)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=30) as puller:
            for _ in range(5):
                async for message in puller:
                    seen.append(message.json())
                    await message.ack()
                    break
        assert seen == list(range(5))

    async def test_nothing_is_settled_by_itself(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._five(sb)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=30) as puller:
            messages = await self._fetch(puller, 5)
            assert (await sb.consumers.info(name, WORKER)).ack_pending == 5
            for message in messages:
                await message.ack(confirm=True)
            assert (await sb.consumers.info(name, WORKER)).ack_pending == 0

    async def test_it_is_entered_once_and_says_so(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        for made in (lambda: sb.pull(f"{name}.a", durable=WORKER), lambda: sb.read(f"{name}.a", until="end")):
            each: Any = made()
            async with each:
                with pytest.raises(RuntimeError, match="before"):
                    await each.__aenter__()
                assert (await anext(each)).json() == 1, "what is open goes on"
            with pytest.raises(RuntimeError, match="before"):
                await each.__aenter__()

    async def test_more_than_may_be_unsettled_is_not_waited_for(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))
        async with sb.pull(f"{name}.a", durable=WORKER, max_ack_pending=4) as puller:
            began = monotonic()
            assert bodies(await puller.fetch(10, timeout=60)) == [0, 1, 2, 3]
            assert monotonic() - began < 30

    async def test_what_is_not_settled_comes_again_after_the_ack_wait(self, connect: Connect) -> None:
        sb = await connect()
        name = await self._five(sb)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=0.3) as puller:
            assert {m.attempt for m in await self._fetch(puller, 5)} == {1}
            again = await self._fetch(puller, 5)
            assert {m.attempt for m in again} == {2}
            assert sorted(bodies(again)) == list(range(5))

    async def test_a_nak_brings_it_again_after_its_delay(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=30) as puller:
            [message] = await puller.fetch(1, timeout=5)
            began = monotonic()
            await message.nak(delay=0.2)
            [again] = await puller.fetch(1, timeout=5)
            assert monotonic() - began >= 0.19
            assert (again.sequence, again.attempt) == (message.sequence, 2)

    async def test_a_nak_without_delay_brings_it_again_at_once(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=30) as puller:
            [message] = await puller.fetch(1, timeout=5)
            await message.nak()
            [again] = await puller.fetch(1, timeout=5)
            assert again.attempt == 2

    async def test_term_ends_it(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=0.2) as puller:
            [message] = await puller.fetch(1, timeout=5)
            await message.term("enough")
            assert await puller.fetch(1, timeout=0.35) == []
        await eventually(lambda: idle(sb, name, WORKER))

    async def test_in_progress_holds_it(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=1) as puller:
            [message] = await puller.fetch(1, timeout=5)
            for _ in range(6):
                await message.in_progress()
                assert await puller.fetch(1, timeout=0.2) == []
            await message.ack()

    async def test_a_message_settled_twice_is_told(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            [message] = await puller.fetch(1, timeout=5)
            await message.ack()
            with pytest.raises(AlreadySettled) as caught:
                await message.nak()
        assert (caught.value.stream, caught.value.subject) == (name, f"{name}.a")

    async def test_leaving_gives_back_what_was_not_handed_out(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await self._five(sb)
        async with sb.pull(f"{name}.a", durable=WORKER, batch=5, ack_wait=30) as puller:
            async for message in puller:
                await message.ack()
                break
        options: dict[str, Any] = {"durable": WORKER, "max_ack_pending": 1000, "ack_wait": 30}
        await (await connect()).consume(f"{name}.a", seen.append, **options)
        await eventually(lambda: sorted(bodies(seen)) == [1, 2, 3, 4])

    async def test_a_cancelled_fetch_loses_nothing(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=30) as puller:
            for number in range(10):
                fetching = asyncio.create_task(puller.fetch(5, timeout=10))
                await asyncio.sleep(0.003 * (number % 3))
                await sb.enqueue(f"{name}.a", number)
                fetching.cancel()
                [outcome] = await asyncio.gather(fetching, return_exceptions=True)
                seen += [] if isinstance(outcome, BaseException) else outcome
            while len(seen) < 10:
                more = await puller.fetch(10, timeout=5)
                assert more, f"only {sorted(bodies(seen))} came"
                seen += more
        assert sorted(bodies(seen)) == list(range(10))
        assert {m.attempt for m in seen} == {1}

    async def test_a_consumer_deleted_under_a_fetch_is_no_silence(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            fetching = asyncio.create_task(puller.fetch(1, timeout=8))
            await asyncio.sleep(0.1)
            await sb.consumers.delete(name, WORKER)
            await sb.enqueue(f"{name}.a", "after")
            [outcome] = await asyncio.gather(fetching, return_exceptions=True)
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, StreamError)
            else:
                seen += outcome
                assert bodies(seen) == ["after"]

    async def test_pulling_where_no_stream_captures_is_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(NoStream):
            async with sb.pull("nobody.captures.this", durable=WORKER) as puller:
                await puller.fetch(1, timeout=1)

    @pytest.mark.parametrize("number", [0, -1, 1.5])
    async def test_a_number_below_one_is_refused(self, connect: Connect, number: Any) -> None:
        sb = await connect()
        name = await a_stream(sb)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            with pytest.raises(InvalidOption):
                await puller.fetch(number, timeout=0.1)

    @staticmethod
    async def _five(sb: StreamBroker) -> str:
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(5))
        return name

    @staticmethod
    async def _fetch(puller: Any, number: int) -> list[StreamMessage]:
        """So many, however the server splits them."""
        messages: list[StreamMessage] = []
        while len(messages) < number:
            more = await puller.fetch(number - len(messages), timeout=5)
            assert more, f"only {len(messages)} of {number} came"
            messages += more
        return messages
