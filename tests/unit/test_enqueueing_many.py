"""What `enqueue_many` makes of answers and of none: order, window, and what one failure costs the others."""

import asyncio
import gc

import pytest

from broker import (
    ApiError,
    ConnectionLost,
    EnqueueManyError,
    Entry,
    InvalidKey,
    NoResponders,
    NoStream,
    RequestTimeout,
    StreamBroker,
    StreamOptions,
)
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.testing.waiting import eventually
from tests.unit.test_enqueueing import broker_on


async def test_many_keeps_the_order_and_retries_only_what_failed():
    sb, backend = await broker_on(None, RequestTimeout(), None, ConnectionLost())
    async with sb:
        receipts = await sb.enqueue_many([Entry("s.a", n) for n in range(10)], window=4)
    assert len(receipts) == 10
    assert len({each.sequence for each in receipts}) == 10
    assert len(backend.ids) == 12


async def test_what_nobody_answered_to_keeps_its_order():
    none, some, again = [None] * 5, [NoResponders()] * 9, [NoResponders()] * 3
    sb, backend = await broker_on(*none, *some, *none, *again)
    async with sb:
        await sb.enqueue_many([Entry("s.a", n) for n in range(100)], window=19)
        stored = [int(each.data) async for each in sb.streams.get_many("S", limit=200)]
        assert sb.stats.enqueue_retries == len(backend.ids) - 100
    # What was on its way already cannot be held back; whatever else there is follows in its order.
    assert stored == [*range(5), *range(14, 19), *range(5, 14), *range(19, 100)]


async def test_order_is_kept_for_each_key_while_nobody_answers():
    sb, backend = await broker_on(*[NoResponders()] * 40)
    async with sb:
        entries = [Entry("s.a", n, ordering_key=f"k{n % 3}") for n in range(99)]
        receipts = await sb.enqueue_many(entries, window=20)
    for key in range(3):
        order = [receipts[n].sequence for n in range(99) if n % 3 == key]
        assert order == sorted(order)
    assert len(set(backend.ids)) == 99


class HalfBackend(MemoryBackend):
    """A memory backend in which nobody answers for one stream until it has a leader; ``gone`` says it never had one."""

    def __init__(self):
        super().__init__(MemoryHub())
        self.leaderless = True
        self.appended = 0
        self.lookups = 0

    def append(self, record, *, timeout):
        self.appended += 1
        if self.leaderless and record.subject.startswith("dark."):
            answer = asyncio.get_running_loop().create_future()
            answer.set_exception(NoResponders())
            return answer
        return super().append(record, timeout=timeout)

    async def find_stream(self, subject):
        self.lookups += 1
        await asyncio.sleep(0)
        return await super().find_stream(subject)


async def test_a_stream_without_a_leader_holds_up_no_other():
    backend = HalfBackend()
    async with StreamBroker(backend) as sb:
        await sb.declare(StreamOptions("S", ["s.>"]), StreamOptions("D", ["dark.>"]))
        entries = [Entry("dark.a" if n % 10 == 0 else "s.a", n) for n in range(100)]
        task = asyncio.create_task(sb.enqueue_many(entries, window=20, timeout=15))
        await eventually(lambda: sb.stats.enqueued == 90)
        backend.leaderless = False
        receipts = await task
    assert [receipts[n].sequence for n in range(0, 100, 10)] == [*range(1, 11)]
    assert [receipts[n].sequence for n in range(100) if n % 10] == [*range(1, 91)]


async def test_many_for_a_stream_that_is_missing_are_refused_together():
    backend = HalfBackend()
    async with StreamBroker(backend) as sb:
        await sb.declare(StreamOptions("S", ["s.>"]))
        entries = [Entry("dark.a" if n % 2 else "s.a", n) for n in range(2000)]
        with pytest.raises(EnqueueManyError) as caught:
            await sb.enqueue_many(entries, window=500)
    assert sorted(caught.value.receipts) == [*range(0, 2000, 2)]
    assert {type(each) for each in caught.value.errors.values()} == {NoStream}
    assert backend.lookups < 50
    assert backend.appended < 4200


@pytest.mark.usefixtures("reported")
async def test_cancelling_many_gives_up_what_stands_in_line_as_well():
    backend = HalfBackend()
    async with StreamBroker(backend) as sb:
        await sb.declare(StreamOptions("D", ["dark.>"]))
        task = asyncio.create_task(sb.enqueue_many([Entry("dark.a", n) for n in range(100)], window=20, timeout=60))
        await eventually(lambda: backend.appended > 25)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        appended = backend.appended
        await asyncio.sleep(0.3)
        assert backend.appended == appended


async def test_many_never_runs_ahead_of_its_window_while_nobody_answers():
    backend = HalfBackend()
    taken = 0

    def entries():
        nonlocal taken
        for n in range(100):
            taken += 1
            yield Entry("dark.a", n)

    async with StreamBroker(backend) as sb:
        await sb.declare(StreamOptions("D", ["dark.>"]))
        task = asyncio.create_task(sb.enqueue_many(entries(), window=20, timeout=15))
        await eventually(lambda: backend.appended > 25)
        assert taken <= 21
        backend.leaderless = False
        assert [each.sequence for each in await task] == [*range(1, 101)]


async def test_many_never_runs_ahead_of_its_window():
    sb, backend = await broker_on()
    taken, ahead = 0, []

    def entries():
        nonlocal taken
        for n in range(50):
            taken += 1
            ahead.append(taken - sb.stats.enqueued)
            yield Entry("s.a", n)

    async with sb:
        await sb.enqueue_many(entries(), window=5)
    assert max(ahead) <= 6
    assert len(backend.ids) == 50


async def test_one_bad_entry_loses_no_other():
    sb, _ = await broker_on()
    entries = [Entry("s.a", 1), Entry("s.*", 2), Entry("s.a", 3, idempotency_key=""), Entry("none", 4), Entry("s.a", 5)]
    async with sb:
        with pytest.raises(EnqueueManyError) as caught:
            await sb.enqueue_many(entries)
    assert sorted(caught.value.receipts) == [0, 4]
    assert sorted(caught.value.errors) == [1, 2, 3]
    assert isinstance(caught.value.errors[2], InvalidKey)
    assert isinstance(caught.value.errors[3], NoStream)


class SilentBackend(MemoryBackend):
    """A memory backend that answers to nothing; when it is asked for a stream, it takes its time and fails."""

    def __init__(self, *, responds, delay=0.0):
        super().__init__(MemoryHub())
        self.answers = []
        self.asked = 0
        self._responds = responds
        self._delay = delay

    def append(self, _record, **_):
        answer = asyncio.get_running_loop().create_future()
        if not self._responds:
            answer.set_exception(NoResponders())
        self.answers.append(answer)
        return answer

    async def find_stream(self, _subject):
        self.asked += 1
        try:
            await asyncio.sleep(self._delay)
        finally:
            raise ApiError("the cluster is shut down", err_code=1)


@pytest.fixture
async def reported():
    """What the event loop reports because nobody else asked for it; each test fails when there is any."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert told == []


@pytest.mark.usefixtures("reported")
async def test_cancelling_many_gives_up_every_answer_in_flight():
    backend = SilentBackend(responds=True)
    sb = StreamBroker(backend)
    async with sb:
        task = asyncio.create_task(sb.enqueue_many([Entry("s.a", n) for n in range(40)], window=32))
        await eventually(lambda: len(backend.answers) == 32)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [each.cancelled() for each in backend.answers] == [True] * 32


@pytest.mark.usefixtures("reported")
async def test_a_lookup_that_fails_is_the_error_of_all_that_wait_for_it():
    backend = SilentBackend(responds=False, delay=0.01)
    async with StreamBroker(backend) as sb:
        with pytest.raises(EnqueueManyError) as caught:
            await sb.enqueue_many([Entry("s.a", n) for n in range(5)])
    assert [type(each) for each in caught.value.errors.values()] == [ApiError] * 5
    assert backend.asked == 1


@pytest.mark.usefixtures("reported")
async def test_a_lookup_that_fails_when_nobody_waits_for_it_any_more_is_not_reported():
    backend = SilentBackend(responds=False, delay=60)
    async with StreamBroker(backend) as sb:
        task = asyncio.create_task(sb.enqueue_many([Entry("s.a", n) for n in range(5)], timeout=60))
        await eventually(lambda: backend.asked == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(EnqueueManyError):
            await sb.enqueue_many([Entry("s.a", 1)], timeout=0.05)


async def test_an_error_in_the_callers_iterable_is_the_callers():
    sb, _ = await broker_on()

    def entries():
        yield Entry("s.a", 1)
        raise ZeroDivisionError

    async with sb:
        with pytest.raises(ZeroDivisionError):
            await sb.enqueue_many(entries())
        assert (await sb.enqueue("s.a", 2)).stream == "S"
