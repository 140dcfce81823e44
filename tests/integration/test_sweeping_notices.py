"""The stream of notices that a sweep goes by: whose it may be, and what it makes of all that is in there."""

import asyncio

import pytest

from broker import ApiError, ConfigDrift, Entry, StreamOptions, StreamSource, Swept
from broker.testing.conformance.scene import letters
from broker.testing.waiting import eventually
from tests.integration.test_sweeping import NOTHING, _count, a_limited
from tests.limited import NOTICES, lent, limited, worn_out

pytestmark = pytest.mark.nats

ADVISORIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"


async def test_notices_of_a_stream_that_was_made_anew_are_about_other_messages(sb):
    await a_limited(sb)
    await sb._streams.exhausted.keep_notices(1)
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))
    await eventually(lambda: _count(sb, NOTICES, 3))
    await sb.streams.delete("S")
    await sb.declare(StreamOptions("S", ["s.>"]))
    await limited(sb)
    await sb.enqueue_many(Entry("s.a", n) for n in range(3))
    assert await sb.dead_letters.sweep("S") == Swept(gone=3)
    async for taken in lent(sb, 3):
        assert [message.attempt for message in taken] == [1, 1, 1]


async def test_a_push_consumer_is_swept_by_its_notices(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await limited(sb, deliver_subject="pushed", ack_wait=0.1)
    await sb.dead_letters.sweep("S")
    async with await sb.subscribe("pushed") as pushed:
        await sb.enqueue("s.a", 1)
        for _ in range(2):
            await asyncio.wait_for(anext(pushed), 10)
        await eventually(lambda: _count(sb, NOTICES, 1), within=10)
    assert await sb.dead_letters.sweep("S") == Swept(written=1)


async def test_an_administrators_own_stream_of_notices_is_taken(sb):
    own = StreamOptions(NOTICES, [ADVISORIES], max_age=3600, discard="old")
    await sb.declare(own)
    await a_limited(sb)
    assert await sb.dead_letters.sweep("S") == Swept(written=3)
    assert (await sb.streams.info(NOTICES)).config == own


async def test_notices_may_come_from_another_stream(sb):
    await sb.declare(StreamOptions("ALL", ["$JS.EVENT.ADVISORY.>"]))
    await a_limited(sb)
    with pytest.raises(ApiError, match=f"declare {NOTICES} with that one as its source"):
        await sb.dead_letters.sweep("S")
    assert await letters(sb) == []
    await sb.declare(StreamOptions(NOTICES, sources=[StreamSource("ALL", filter=ADVISORIES)]))
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))
    await eventually(lambda: _count(sb, NOTICES, 3), within=15)
    assert await sb.dead_letters.sweep("S") == Swept(written=3)
    assert await sb.dead_letters.sweep("S") == NOTHING


async def test_a_stream_of_that_name_that_takes_no_notices_is_told(sb):
    await sb.declare(StreamOptions(NOTICES, ["elsewhere"]))
    await a_limited(sb)
    with pytest.raises(ConfigDrift, match="MAX_DELIVERIES"):
        await sb.dead_letters.sweep("S")


async def test_what_somebody_else_put_among_the_notices_is_passed_over(sb):
    await a_limited(sb, number=1)
    await sb.dead_letters.sweep("S")
    for data in (b"", b"no", b"[]", b'{"stream_seq": "x"}'):
        await sb.publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.w", data)
    await eventually(lambda: _count(sb, NOTICES, 4))
    await sb.enqueue("s.a", 2)
    await worn_out(sb, 1)
    assert await sb.dead_letters.sweep("S") == Swept(written=1)
