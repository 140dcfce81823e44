"""Appends and administration against a real server."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from broker.contracts.envelopes import Expect, Record
from broker.contracts.errors import (
    ConfigDrift,
    ConsumerNotFound,
    NoResponders,
    PayloadTooLarge,
    SequenceConflict,
    StreamFull,
    StreamNotFound,
)
from broker.contracts.headers import Headers
from broker.contracts.options import StreamOptions
from broker.testing.waiting import eventually
from tests.orders import ORDERS, emptied, fill, record, stored

pytestmark = pytest.mark.nats


class TestAppend:
    async def test_a_repeat_is_told(self, backend):
        once = Record("orders.new", b"", None, uuid4().hex)
        first = await backend.append(once, timeout=5)
        again = await backend.append(once, timeout=5)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.sequence == first.sequence

    async def test_order_is_kept_with_many_in_flight(self, backend):
        receipts = await asyncio.gather(*(backend.append(record(n), timeout=5) for n in range(1000)))
        assert [each.sequence for each in receipts] == list(range(1, 1001))

    @pytest.mark.parametrize(
        "expect",
        [
            Expect(last_sequence=7),
            Expect(last_subject_sequence=7),
            Expect(last_subject_sequence=0, subject_filter="orders.>"),
            Expect(last_msg_id="other"),
            Expect(stream="OTHER"),
        ],
    )
    async def test_an_expectation_that_does_not_hold(self, backend, expect):
        await fill(backend, 1)
        with pytest.raises(SequenceConflict):
            await backend.append(record(1, expect=expect), timeout=5)
        assert (await backend.stream_info("ORDERS")).messages == 1

    async def test_expectations_that_hold(self, backend):
        await fill(backend, 1)
        expect = Expect(last_sequence=1, last_subject_sequence=1, last_msg_id="orders.new-0", stream="ORDERS")
        assert (await backend.append(record(1, expect=expect), timeout=5)).sequence == 2

    async def test_no_stream_answers(self, backend):
        with pytest.raises(NoResponders):
            await backend.append(record(subject="nobody.listens"), timeout=5)

    async def test_a_full_stream(self, backend):
        await backend.create_stream(StreamOptions("SMALL", ["small.*"], max_msgs=1))
        await backend.append(record(subject="small.a"), timeout=5)
        with pytest.raises(StreamFull):
            await backend.append(record(1, subject="small.a"), timeout=5)

    async def test_too_large_for_the_stream(self, backend):
        await backend.create_stream(StreamOptions("SMALL", ["small.*"], max_msg_size=100))
        with pytest.raises(PayloadTooLarge):
            await backend.append(Record("small.a", b"x" * 101, None, "id"), timeout=5)

    async def test_headers_count_against_the_payload_limit(self, backend):
        record = Record("orders.new", b"", None, "id")
        room = backend.max_payload - len(b"NATS/1.0\r\nNats-Msg-Id: id\r\n\r\n")
        record.data = b"x" * room
        assert (await backend.append(record, timeout=5)).sequence == 1
        record.data += b"x"
        with pytest.raises(PayloadTooLarge):
            await backend.append(record, timeout=5)
        with pytest.raises(PayloadTooLarge):
            backend.publish("orders.new", b"x" * backend.max_payload, Headers([("A", "b")]))

    async def test_a_time_to_live_is_honoured(self, backend):
        await backend.append(record(ttl=1), timeout=5)
        await eventually(lambda: emptied(backend))

    async def test_cancelling_abandons_the_answer_only(self, backend):
        append = backend.append(record(), timeout=5)
        append.cancel()
        await eventually(lambda: stored(backend, 1))


class TestAdmin:
    async def test_info_is_what_was_declared(self, backend):
        options = StreamOptions(
            "FULL",
            ["full.a", "full.b.*"],
            storage="memory",
            retention="interest",
            max_msgs=10,
            max_bytes=100_000,
            max_age=3600,
            max_msgs_per_subject=3,
            max_msg_size=1000,
            duplicate_window=1.5,
            discard="old",
            description="everything set",
            metadata={"owner": "me"},
        )
        assert (await backend.create_stream(options)).config == options
        assert (await backend.create_stream(options)).config == options
        assert (await backend.stream_info("FULL")).config == options

    async def test_creating_it_differently_names_every_field(self, backend):
        with pytest.raises(ConfigDrift) as caught:
            await backend.create_stream(
                replace(ORDERS, subjects=["other.>"], max_msgs=5, max_age=600, discard="old", metadata={"a": "b"})
            )
        assert caught.value.name == "ORDERS"
        assert caught.value.differences == {
            "subjects": (("other.>",), ("orders.>",)),
            "discard": ("old", "new"),
            "max_msgs": (5, None),
            "max_age": (600, None),
            "metadata": ({"a": "b"}, {}),
        }

    async def test_an_update_keeps_what_it_does_not_speak_of(self, backend):
        config = (await backend._admin.raw_stream("ORDERS"))["config"]
        await backend._admin._api.call("STREAM.UPDATE.ORDERS", {**config, "allow_batched": True})
        changed = await backend.update_stream(replace(ORDERS, max_msgs=5))
        assert changed.config == replace(ORDERS, max_msgs=5)
        assert (await backend._admin.raw_stream("ORDERS"))["config"]["allow_batched"] is True
        with pytest.raises(StreamNotFound):
            await backend.update_stream(StreamOptions("NOBODY", ["x"]))

    async def test_lists_have_pages(self, backend):
        for number in range(270):
            await backend.create_stream(StreamOptions(f"S{number:03}", [f"s.{number}"], storage="memory"))
        names = [each.name async for each in backend.list_streams()]
        assert names == ["ORDERS", *(f"S{number:03}" for number in range(270))]

    async def test_find_stream(self, backend):
        assert await backend.find_stream("orders.new") == "ORDERS"
        assert await backend.find_stream("orders.*") == "ORDERS"
        assert await backend.find_stream("nobody") is None

    async def test_purge(self, backend):
        for number, subject in enumerate(["orders.a", "orders.b"] * 5):
            await backend.append(record(number, subject), timeout=5)
        assert await backend.purge_stream("ORDERS", subject="orders.a", up_to=None, keep=2) == 3
        assert await backend.purge_stream("ORDERS", subject=None, up_to=5, keep=None) == 2
        assert await backend.purge_stream("ORDERS", subject=None, up_to=None, keep=None) == 5
        state = (await backend.stream_info("ORDERS")).state
        assert (state.messages, state.first_sequence, state.last_sequence) == (0, 11, 10)

    async def test_messages(self, backend):
        await backend.append(Record("orders.a", b"body", Headers([("A", "1"), ("A", "2")]), "id"), timeout=5)
        found = await backend.get_message("ORDERS", sequence=1, last_of=None)
        assert (found.subject, found.data, found.stream, found.sequence) == ("orders.a", b"body", "ORDERS", 1)
        assert found.headers.get_all("a") == ["1", "2"]
        assert abs(found.timestamp_ns / 1e9 - datetime.now(UTC).timestamp()) < 60
        assert await backend.get_message("ORDERS", sequence=None, last_of="orders.*") == found
        assert await backend.get_message("ORDERS", sequence=2, last_of=None) is None
        assert await backend.delete_message("ORDERS", 1) is True
        assert await backend.delete_message("ORDERS", 1) is False
        assert await backend.delete_message("ORDERS", 99) is False
        with pytest.raises(StreamNotFound):
            await backend.get_message("NOBODY", sequence=1, last_of=None)

    async def test_what_does_not_exist(self, backend):
        for call in (
            backend.stream_info("NOBODY"),
            backend.delete_stream("NOBODY"),
            backend.consumer_info("NOBODY", "worker"),
        ):
            with pytest.raises(StreamNotFound):
                await call
        for call in (backend.consumer_info("ORDERS", "nobody"), backend.delete_consumer("ORDERS", "nobody")):
            with pytest.raises(ConsumerNotFound):
                await call
