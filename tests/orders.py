"""A stream of orders and its worker, at the seam: fill it, take from it, look at it."""

import asyncio

from broker.contracts.envelopes import Record
from broker.contracts.options import ConsumerOptions, StreamOptions

ORDERS = StreamOptions("ORDERS", ["orders.>"])
WORKER = ConsumerOptions(durable="worker", filters=["orders.>"], ack_wait=5)


def record(number=0, subject="orders.new", **more):
    return Record(subject, b"%d" % number, None, f"{subject}-{number}", **more)


async def fill(backend, count, first=0):
    await asyncio.gather(*(backend.append(record(n), timeout=5) for n in range(first, first + count)))


async def take(source, count):
    """Exactly so many, in however many pieces they come."""
    taken = []
    while len(taken) < count:
        taken += await source.fetch(count - len(taken), timeout=5)
    return taken


def numbers(deliveries):
    return [int(each.data) for each in deliveries]


async def info(backend):
    return await backend.consumer_info("ORDERS", "worker")


async def settled(backend, floor):
    found = await info(backend)
    return found.ack_pending == 0 and found.ack_floor == floor


async def waiting(backend):
    return (await info(backend)).waiting


async def stored(backend, count):
    return (await backend.stream_info("ORDERS")).messages == count


async def emptied(backend):
    return await stored(backend, 0)


async def a_consumer(backend, **options):
    await backend.create_stream(StreamOptions("ORDERS", ["orders.>"]))
    return await backend.open_consumer(ConsumerOptions(durable="worker", filters=["orders.>"], **options))
