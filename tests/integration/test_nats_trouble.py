"""The pull engine against a real server: what is told and repaired, and what a consumer must be like."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

import pytest

from broker.backends.nats.intake import Rhythm
from broker.backends.nats.presence import Managed
from broker.backends.nats.source import NatsSource
from broker.contracts.errors import (
    ApiError,
    ConfigDrift,
    ConsumerNotFound,
    NoStream,
    StreamNotFound,
)
from broker.contracts.options import ConsumerOptions
from broker.testing.waiting import eventually
from tests.orders import WORKER, fill, info, numbers, record, waiting

pytestmark = pytest.mark.nats


class TestTrouble:
    async def test_a_deleted_consumer_is_told_at_once(self, backend):
        source = await backend.open_consumer(WORKER)
        fetching = asyncio.ensure_future(source.fetch(10, timeout=10))
        await eventually(lambda: waiting(backend))
        began = monotonic()
        await backend.delete_consumer("ORDERS", "worker")
        with pytest.raises(ConsumerNotFound):
            await fetching
        assert monotonic() - began < 2.5
        with pytest.raises(ConsumerNotFound):
            await source.fetch(1, timeout=1)
        await source.close()

    @pytest.mark.parametrize("ensure", ["verify", "bind"])
    async def test_a_deleted_consumer_is_told_to_the_next_fetch(self, backend, ensure):
        await (await backend.open_consumer(WORKER)).close()
        source = await backend.open_consumer(replace(WORKER, stream="ORDERS", ensure=ensure))
        await backend.delete_consumer("ORDERS", "worker")
        began = monotonic()
        with pytest.raises(ConsumerNotFound):
            await source.fetch(1, timeout=10)
        assert monotonic() - began < 8
        await source.close()

    async def test_a_deleted_stream_is_told(self, backend):
        source = await backend.open_consumer(WORKER)
        fetching = asyncio.ensure_future(source.fetch(10, timeout=10))
        await eventually(lambda: waiting(backend))
        await backend.delete_stream("ORDERS")
        with pytest.raises((ConsumerNotFound, StreamNotFound)):
            await fetching
        await source.close()

    async def test_silence_is_noticed_and_repaired(self, backend):
        await backend.open_consumer(WORKER)
        presence = Managed(backend._admin, "ORDERS", "worker", polls=True, floor=0, ours=False)
        source = NatsSource(backend._session, presence, ack_wait=5, rhythm=Rhythm(expires=30, heartbeat=0.1))
        fetching = asyncio.ensure_future(source.fetch(10, timeout=10))
        await eventually(lambda: waiting(backend))
        # The server forgets the pull and nobody tells: as after a lost frame.
        backend._session.link.send_stream(b"UNSUB %d\r\n" % source._intake._sid)
        await fill(backend, 1)
        assert numbers(await fetching) == [0]
        await source.close()

    @pytest.mark.parametrize("deleted", [False, True])
    async def test_a_pull_that_ends_without_a_word_is_noticed_before_silence_is(self, backend, deleted):
        """As when this process was late at every look: what it missed proves nothing, but the pull's time is up."""
        await backend.open_consumer(WORKER)
        presence = Managed(backend._admin, "ORDERS", "worker", polls=True, floor=0, ours=False)
        source = NatsSource(backend._session, presence, ack_wait=5, rhythm=Rhythm(expires=0.4, heartbeat=0.1))
        source._missed = 1_000_000
        fetching = asyncio.ensure_future(source.fetch(10, timeout=15))
        await eventually(lambda: waiting(backend))
        backend._session.link.send_stream(b"UNSUB %d\r\n" % source._intake._sid)
        if deleted:
            await backend.delete_consumer("ORDERS", "worker")
            with pytest.raises(ConsumerNotFound):
                await fetching
        else:
            await asyncio.sleep(1)
            await fill(backend, 1)
            assert source._intake.owed
        await source.close()
        await asyncio.wait([fetching])

    async def test_silence_of_a_deleted_consumer_is_told(self, backend):
        await backend.open_consumer(WORKER)
        presence = Managed(backend._admin, "ORDERS", "worker", polls=True, floor=0, ours=False)
        source = NatsSource(backend._session, presence, ack_wait=5, rhythm=Rhythm(expires=30, heartbeat=0.1))
        fetching = asyncio.ensure_future(source.fetch(10, timeout=10))
        await eventually(lambda: waiting(backend))
        backend._session.link.send_stream(b"UNSUB %d\r\n" % source._intake._sid)
        await backend.delete_consumer("ORDERS", "worker")
        with pytest.raises(ConsumerNotFound):
            await fetching
        await source.close()

    async def test_an_expired_pull_is_replaced(self, backend):
        presence_of = await backend.open_consumer(WORKER)
        await presence_of.close()
        presence = Managed(backend._admin, "ORDERS", "worker", polls=False, floor=0, ours=False)
        source = NatsSource(backend._session, presence, ack_wait=5, rhythm=Rhythm(expires=0.2, heartbeat=0.1))
        fetching = asyncio.ensure_future(source.fetch(10, timeout=5))
        await asyncio.sleep(0.7)
        await fill(backend, 1)
        assert numbers(await fetching) == [0]
        assert source._intake.owed == 9
        await source.close()

    async def test_a_push_consumer_is_refused(self, backend):
        config = {"name": "pushed", "durable_name": "pushed", "ack_policy": "explicit", "deliver_subject": "elsewhere"}
        await backend._admin._api.call(
            "CONSUMER.CREATE.ORDERS.pushed", {"stream_name": "ORDERS", "config": config, "action": "create"}
        )
        with pytest.raises(ApiError):
            await backend.open_consumer(ConsumerOptions(durable="pushed", stream="ORDERS", ensure="bind"))
        with pytest.raises(ConfigDrift) as caught:
            await backend.open_consumer(ConsumerOptions(durable="pushed", stream="ORDERS", ensure="update"))
        assert set(caught.value.differences) == {"deliver_subject"}


class TestEnsure:
    async def test_verify_names_every_field(self, backend):
        await backend.open_consumer(replace(WORKER, queue="a"))
        asked = replace(WORKER, queue="b", filters=["orders.new"], max_ack_pending=7, ack_wait=9)
        with pytest.raises(ConfigDrift) as caught:
            await backend.open_consumer(asked)
        assert caught.value.differences == {
            "filters": (("orders.new",), ("orders.>",)),
            "max_ack_pending": (7, 256),
            "ack_wait": (9, 5.0),
            "queue": ("b", "a"),
        }

    async def test_where_it_starts_is_not_compared(self, backend):
        await fill(backend, 3)
        await backend.open_consumer(WORKER)
        source = await backend.open_consumer(replace(WORKER, start="new"))
        assert numbers(await source.fetch(1, timeout=5)) == [0]
        await source.close()

    async def test_update_changes_what_it_can(self, backend):
        await backend.open_consumer(replace(WORKER, queue="a"))
        wanted = replace(WORKER, queue="b", filters=["orders.new"], max_ack_pending=7, ack_wait=9, ensure="update")
        await backend.open_consumer(wanted)
        assert (await info(backend)).config == replace(wanted, stream="ORDERS", ensure="verify")
        wanted = replace(wanted, filters=["orders.a", "orders.b"])
        await backend.open_consumer(wanted)
        assert (await info(backend)).config.filters == ("orders.a", "orders.b")

    async def test_update_says_what_it_cannot_change(self, backend):
        await backend.open_consumer(WORKER)
        with pytest.raises(ConfigDrift) as caught:
            await backend.open_consumer(replace(WORKER, acks=False, ack_wait=7, ensure="update"))
        assert set(caught.value.differences) == {"acks"}

    async def test_the_queue_names_it_when_nothing_else_does(self, backend):
        source = await backend.open_consumer(ConsumerOptions(queue="crew", filters=["orders.>"]))
        assert source.consumer == "crew"
        await source.close()
        assert (await backend.consumer_info("ORDERS", "crew")).config.queue == "crew"

    async def test_bind_asks_nothing(self, backend):
        await (await backend.open_consumer(WORKER)).close()
        asked = []
        call = backend._admin._api.call
        backend._admin._api.call = lambda *args, **kwargs: asked.append(args) or call(*args, **kwargs)
        source = await backend.open_consumer(replace(WORKER, stream="ORDERS", ensure="bind"))
        await fill(backend, 1)
        await source.ack(await source.fetch(1, timeout=5))
        await asyncio.sleep(1.2)
        await source.close()
        assert asked == []
        assert source.resume_sequence is None

    async def test_bind_looks_the_stream_up_when_it_is_not_named(self, backend):
        await (await backend.open_consumer(WORKER)).close()
        source = await backend.open_consumer(replace(WORKER, ensure="bind"))
        assert source.stream == "ORDERS"
        await source.close()

    async def test_bind_to_nothing_is_told(self, backend):
        with pytest.raises(ConsumerNotFound):
            await backend.open_consumer(replace(WORKER, stream="ORDERS", ensure="bind"))

    async def test_no_stream(self, backend):
        with pytest.raises(NoStream):
            await backend.open_consumer(ConsumerOptions(durable="worker", filters=["nobody.>"]))
        with pytest.raises(NoStream):
            await backend.open_consumer(ConsumerOptions(durable="worker", filters=["nobody.>"], stream="ORDERS"))
        with pytest.raises(StreamNotFound):
            await backend.open_consumer(ConsumerOptions(durable="worker", filters=["orders.>"], stream="NOBODY"))

    @pytest.mark.parametrize(
        ("start", "expected"),
        [("first", [0, 1, 2]), ("last", [2]), ("last_per_subject", [1, 2]), (2, [1, 2]), ("new", [])],
    )
    async def test_every_start(self, backend, start, expected):
        for number, subject in enumerate(["orders.a", "orders.b", "orders.a"]):
            await backend.append(record(number, subject), timeout=5)
        source = await backend.open_consumer(replace(WORKER, start=start))
        seen = []
        while deliveries := await source.fetch(10, timeout=0.3):
            seen += numbers(deliveries)
        assert seen == expected
        await source.close()

    async def test_a_time_as_start(self, backend):
        await fill(backend, 1)
        await asyncio.sleep(0.02)
        moment = datetime.now(UTC)
        await fill(backend, 1, first=1)
        source = await backend.open_consumer(replace(WORKER, start=moment))
        assert numbers(await source.fetch(10, timeout=5)) == [1]
        assert (await info(backend)).config.start == moment
        await source.close()
