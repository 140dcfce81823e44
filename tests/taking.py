"""Putting into and taking from the memory backend, for tests on a clock that stands still."""

import asyncio
from itertools import count

from broker.contracts.envelopes import Record
from broker.contracts.options import ConsumerOptions

numbers = count(1)


async def put(backend, *subjects):
    for subject in subjects:
        await backend.append(Record(subject, b"x", None, f"id-{next(numbers)}"), timeout=1)


async def turns(many=5):
    for _ in range(many):
        await asyncio.sleep(0)


def options(durable="d", filters=("s.>",), **more):
    return ConsumerOptions(durable=durable, filters=filters, **more)


async def opened(backend, *args, **more):
    return await backend.open_consumer(options(*args, **more))


def seen(deliveries):
    return [(each.sequence, each.attempt) for each in deliveries]


async def now(source, limit=100):
    return await source.fetch(limit, timeout=0)
