"""HOSTILE 5: keys that other clients make (each test states a promise that did not hold when it was written)."""

import asyncio
import os

import pytest
import pytest_asyncio
from sqlalchemy import text

from broker import StreamOptions
from broker.contracts.headers import KEY
from broker.exactly_once import Inbox
from broker.testing.waiting import eventually, never
from tests.exactly_once.conftest import Ledger

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["nats"])
def sb(request):
    return request.getfixturevalue("memory_stream_broker" if request.param == "memory" else "stream_broker")


async def raw(server, subject, headers, body):
    """Published by a client that is not ours, as bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    await reader.readline()
    block = b"NATS/1.0\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n"
    writer.write(b'CONNECT {"headers":true,"verbose":false}\r\n')
    writer.write(b"HPUB %s %d %d\r\n" % (subject, len(block), len(block) + len(body)) + block + body + b"\r\nPING\r\n")
    await writer.drain()
    print("server says", await asyncio.wait_for(reader.readline(), 5))
    writer.close()


@pytest.mark.parametrize("odd", ["nul", "latin1", "long", "empty", "blank"])
@pytest.mark.parametrize("size", [10, None])
async def test_one_odd_key_costs_nobody_else_anything(battles, nats_server, inbox, ledger, odd, size):
    value = {"nul": b"a\x00b", "latin1": b"\xff\xfe", "long": os.urandom(6000).hex().encode(), "empty": b"", "blank": b"   "}[odd]
    letters = []

    async def settle(msgs, tx):
        for msg in msgs if isinstance(msgs, list) else [msgs]:
            await ledger.pay(tx, msg.data.decode())

    for name in ("ann", "bob"):
        await battles.enqueue("battle.settle", name.encode(), idempotency_key=name)
    await raw(nats_server, b"battle.settle", [(KEY.encode(), value)], b"odd")
    await battles.enqueue("battle.settle", b"cid", idempotency_key="cid")
    more = {} if size is None else {"batch_size": size, "batch_timeout": 0.2}
    await battles.consume("battle.settle", settle, durable="w", inbox=inbox, backoff=[0.05], max_deliver=3, **more)

    async def done():
        letters[:] = [(letter.idempotency_key, letter.error) async for letter in battles.dead_letters.list()]
        return len(letters) + sum((await ledger.paid()).values()) >= 4

    await eventually(done, within=15)
    await asyncio.sleep(0.3)
    print(odd, size, await ledger.paid(), [(k and k[:20], e and e[:200]) for k, e in letters])
    paid = await ledger.paid()
    assert {name: paid.get(name) for name in ("ann", "bob", "cid")} == {"ann": 1, "bob": 1, "cid": 1}
