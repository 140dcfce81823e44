"""A handler with its inbox, cancelled at every wait: mark and effect stay together, and nobody beside it is hurt."""

import asyncio
from itertools import count

import pytest

from broker.applying import SomeFailed
from broker.contracts.envelopes import Delivery
from broker.contracts.headers import KEY, Headers
from broker.contracts.options import ConsumeOptions
from broker.exactly_once import Inbox
from broker.messages import StreamMessage
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.waiting import never
from tests.exactly_once.test_transactions import rows

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def message(memory_stream_broker):
    """Messages as consuming hands them over, each with a key of its own."""
    numbers = count(1)
    sb = memory_stream_broker

    def message(attempt=1):
        number = next(numbers)
        headers = Headers([(KEY, f"battle-{number:05}")])
        delivery = Delivery("battle.settle", b"{}", headers, "BATTLES", "w", number, attempt, number, 0, None)
        return StreamMessage(delivery, sb._codec, sb._streams, settler=None)

    return message


@pytest.fixture
def pay(ledger):
    async def pay(msg, tx):
        await ledger.pay(tx, msg.idempotency_key)
        await asyncio.sleep(0)

    return pay


async def test_one_of_several_messages_cancelled_at_any_wait(inbox, ledger, message, pay):
    apply = inbox.applying(pay, consumer="w", options=ConsumeOptions())
    neighbours = set()

    async def beside(work):
        """The work that is cancelled, between two others that are not."""
        others = [message(), message()]
        neighbours.update(each.idempotency_key for each in others)
        around = [asyncio.create_task(apply(others[0]))]
        try:
            await work()
        finally:
            around.append(asyncio.create_task(apply(others[1])))
            running.extend(around)

    running = []
    async for _ in cancelled_everywhere(lambda: beside(lambda: apply(message())), within=10):
        async with asyncio.timeout(10):
            await asyncio.gather(*running)
        running.clear()
    marks, paid = await rows(ledger)
    assert marks == paid
    assert neighbours <= set(marks)
    assert sum((await ledger.paid()).values()) == len(marks)


async def test_a_batch_cancelled_at_any_wait(inbox, ledger, message, pay):
    async def pay_all(batch, tx):
        for msg in batch:
            await pay(msg, tx)

    apply = inbox.applying(pay_all, consumer="w", options=ConsumeOptions(batch_size=3))
    async for _ in cancelled_everywhere(lambda: apply([message() for _ in range(3)]), within=10):
        async with asyncio.timeout(10):
            await apply([message()])
    marks, paid = await rows(ledger)
    assert marks == paid
    assert sum((await ledger.paid()).values()) == len(marks)


async def test_a_failing_batch_cancelled_at_any_wait(inbox, ledger, message, pay):
    """It goes on one by one, in savepoints."""
    bad = set()

    async def pay_all(batch, tx):
        for msg in batch:
            await pay(msg, tx)
            if msg.idempotency_key in bad:
                raise LookupError

    apply = inbox.applying(pay_all, consumer="w", options=ConsumeOptions(batch_size=3))

    async def work():
        batch = [message() for _ in range(3)]
        bad.add(batch[1].idempotency_key)
        with pytest.raises(SomeFailed) as caught:
            await apply(batch)
        assert [each.idempotency_key for each in caught.value.errors] == [batch[1].idempotency_key]

    async for _ in cancelled_everywhere(work, within=10):
        async with asyncio.timeout(10):
            await apply([message()])
    marks, paid = await rows(ledger)
    assert marks == paid
    assert not bad & set(marks)
    assert sum((await ledger.paid()).values()) == len(marks)


@pytest.mark.parametrize("size", [None, 10])
async def test_what_has_no_attempt_left_waits_for_the_one_that_is_still_at_work(inbox, url, ledger, message, size):
    """Its last attempt is slow (a worker that was stopped past the ack wait): nobody knows yet what comes of it."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def pay(_, tx):
        await ledger.pay(tx, "ann")
        begun.set()
        await go_on.wait()

    options = ConsumeOptions(batch_size=size, max_deliver=2, once=True)
    last, beyond = message(attempt=2), message(attempt=3)
    beyond.delivery.headers = last.delivery.headers
    async with Inbox(url) as elsewhere:
        slow = inbox.applying(pay, consumer="w", options=options)
        late = elsewhere.applying(pay, consumer="w", options=options)
        first = asyncio.create_task(slow([last] if size else last))
        await begun.wait()
        second = asyncio.create_task(late([beyond] if size else beyond))
        await never(second.done, during=0.3)
        go_on.set()
        await asyncio.gather(first, second)
    assert await ledger.paid() == {"ann": 1}
    assert elsewhere.stats.duplicates == 1
