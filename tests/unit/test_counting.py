"""What `increment` makes of a lost answer."""

import asyncio

import pytest

from broker import EnqueueUnknown, PermissionDenied, RequestTimeout, StreamBroker, StreamOptions
from broker.backends.memory import MemoryBackend, MemoryHub

C = StreamOptions("C", ["c.>"], counters=True, discard="old")


class Silent(MemoryBackend):
    """Stores, and loses the first answers."""

    lost = 0

    def append(self, record, *, timeout):
        answer = super().append(record, timeout=timeout)
        if not self.lost:
            return answer
        self.lost -= 1
        silence = asyncio.get_running_loop().create_future()
        silence.set_exception(RequestTimeout())
        return silence


async def opened(lost):
    backend = Silent(MemoryHub())
    sb = StreamBroker(backend)
    await sb.declare(C)
    backend.lost = lost
    return sb, backend


async def test_a_lost_answer_counts_once_and_the_value_is_found():
    sb, _ = await opened(1)
    assert await sb.increment("c.a", 3) == 3
    assert await sb.counter("c.a") == 3


async def test_unknown_carries_the_key_that_counts_it_once():
    sb, backend = await opened(1000)
    with pytest.raises(EnqueueUnknown) as caught:
        await sb.increment("c.a", 3, timeout=0.2)
    backend.lost = 0
    assert await sb.increment("c.a", 3, idempotency_key=caught.value.idempotency_key) == 3
    assert await sb.counter("c.a") == 3


async def test_a_value_that_cannot_be_read_does_not_undo_what_counted(monkeypatch):
    sb, _ = await opened(1)

    async def forbidden(*_, **__):
        raise PermissionDenied(verb="publish", subject="$JS.API")

    monkeypatch.setattr(MemoryBackend, "counter", forbidden)
    assert await sb.increment("c.a", 3) is None
