"""A far attempt (``reschedule_after=``) is a copy in another stream, and to the inbox the same message."""

import pytest

from broker.rescheduling.source import ReturningSource
from broker.testing.waiting import eventually
from tests.exactly_once.test_inbox import SETTLE, WORKER, enqueue


@pytest.fixture
def kind():
    return "sqlite"


@pytest.fixture
def lost_acks(monkeypatch):
    """The first ack gets lost: as if the worker had died between storing the copy and acking the original."""
    ack, lost = ReturningSource.ack, []

    async def lose_one(source, deliveries):
        if lost:
            await ack(source, deliveries)
        lost.append(deliveries)

    monkeypatch.setattr(ReturningSource, "ack", lose_one)


@pytest.mark.usefixtures("lost_acks")
async def test_the_original_without_a_key_and_its_copy_pay_once(battles, inbox, ledger):
    async def pay(msg, tx):
        await ledger.pay(tx, "ann")
        if msg.attempt == 1:
            raise ConnectionError

    options = {"ack_wait": 0.5, "backoff": (1.5,), "reschedule_after": 0.2}
    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, **options)
    await enqueue(battles, "ann")
    await eventually(lambda: inbox.stats.applied + inbox.stats.duplicates == 2, within=20)
    assert await ledger.paid() == {"ann": 1}
