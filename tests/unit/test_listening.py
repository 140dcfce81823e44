"""Subscribing while the broker's end begins: refused, and nothing is left behind."""

import asyncio
from uuid import uuid4

import pytest
import pytest_asyncio

from broker import Broker, BrokerClosed
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.waiting import eventually


@pytest_asyncio.fixture
async def sb():
    async with Broker.connect(f"memory://{uuid4().hex}") as connected:
        yield connected


async def handle(_msg):
    await asyncio.sleep(60)


@pytest.fixture
def ends_meanwhile(sb, monkeypatch):
    """The end begins when the server has the subscription and its caller does not know yet."""
    subscribe, ending = sb._backend.subscribe, []

    def arrange(end):
        async def subscribed(*args, **kwargs):
            interest = await subscribe(*args, **kwargs)
            ending.append(asyncio.create_task(end()))
            await asyncio.sleep(0)
            assert sb.status == "draining"
            return interest

        monkeypatch.setattr(sb._backend, "subscribe", subscribed)
        return ending

    return arrange


@pytest.mark.parametrize("verb", ["subscribe", "respond"])
@pytest.mark.parametrize("end", ["aclose", "drain"])
async def test_it_is_refused_and_leaves_nothing(sb, ends_meanwhile, verb, end):
    before = asyncio.all_tasks()
    ending = ends_meanwhile(getattr(sb, end))
    with pytest.raises(BrokerClosed):
        await getattr(sb, verb)("late", handle)
    assert (sb._roster.subscriptions, sb._roster.responders) == (set(), set())
    await asyncio.gather(*ending)
    await eventually(lambda: not asyncio.all_tasks() - before)


async def test_cancelled_while_it_is_taken_back_it_leaves_nothing(sb, monkeypatch):
    """Draining goes on, so that only the one who subscribes can take it back."""
    before, held = asyncio.all_tasks(), len(sb._backend._subscriptions)

    async def late():
        monkeypatch.setattr(sb._lifetime, "_draining", False)
        subscribing = sb._backend.subscribe

        async def subscribed(*args, **kwargs):
            interest = await subscribing(*args, **kwargs)
            sb._lifetime._draining = True
            return interest

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(sb._backend, "subscribe", subscribed)
            with pytest.raises(BrokerClosed):
                await sb.subscribe("late", handle)

    async for _ in cancelled_everywhere(late):
        await eventually(lambda: not asyncio.all_tasks() - before)
        assert len(sb._backend._subscriptions) == held
        assert not sb._roster.subscriptions
    monkeypatch.undo()
