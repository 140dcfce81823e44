"""Atomic batches: all of it or nothing, once, and every refusal names what it is about."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    BatchRejected,
    EncodeError,
    Entry,
    Expect,
    FeatureDisabled,
    InvalidHeader,
    InvalidKey,
    InvalidOption,
    InvalidSubject,
    NoStream,
    PayloadTooLarge,
    Republish,
    SequenceConflict,
    StreamFull,
    StreamOptions,
    SubjectTransform,
)
from broker.testing.conformance.scene import Conformance, a_stream, arrived, bodies, fresh, listed
from broker.testing.waiting import never

if TYPE_CHECKING:
    from broker import StreamBroker
    from broker.testing.conformance.scene import Connect


async def _messages(sb: StreamBroker, name: str) -> int:
    return (await sb.streams.info(name)).messages


class AtomicConformance(Conformance):
    """Promises of ``enqueue_atomic``."""

    async def test_all_are_stored_next_to_each_other(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.before", 0)
        receipts = await sb.enqueue_atomic([Entry(f"{name}.{n % 3}", n) for n in range(50)])
        assert [tuple(each) for each in receipts] == [(name, n + 2, False) for n in range(50)]
        async with sb.read(f"{name}.>", start=2, until=51) as messages:
            assert bodies(await listed(messages)) == list(range(50))
        assert (sb.stats.enqueued, sb.stats.duplicates) == (51, 0)

    async def test_one_entry_is_a_batch(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        assert [each.sequence for each in await sb.enqueue_atomic([Entry(f"{name}.a", 1)])] == [1]

    async def test_a_thousand_entries_are_a_batch(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipts = await sb.enqueue_atomic([Entry(f"{name}.a", n) for n in range(1000)])
        assert [each.sequence for each in receipts] == list(range(1, 1001))

    async def test_an_entry_carries_what_enqueue_takes(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        entry = Entry(f"{name}.a", {"n": 1}, "k", "o", {"H": ["v", "w"]}, 60, Expect(last_sequence=0, stream=name))
        await sb.enqueue_atomic([entry, Entry(f"{name}.b", b"raw")])
        async with sb.read(f"{name}.>", until=2) as messages:
            first, second = await listed(messages)
        assert (first.json(), first.idempotency_key, first.headers.get_all("H")) == ({"n": 1}, "k", ["v", "w"])
        assert (second.data, second.subject) == (b"raw", f"{name}.b")

    async def test_the_same_batch_again_is_stored_once(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        entries = [Entry(f"{name}.a", n, idempotency_key=f"k{n}") for n in range(5)]
        first = await sb.enqueue_atomic(entries)
        again = await (await connect()).enqueue_atomic(entries)
        assert [each.sequence for each in again] == [each.sequence for each in first]
        assert all(each.duplicate for each in again)
        assert await _messages(sb, name) == 5

    async def test_the_same_batch_again_with_its_expectations(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        entries = [
            Entry(f"{name}.{who}", who, idempotency_key="transfer-1", expect=Expect(last_subject_sequence=0))
            for who in ("ann", "bob")
        ]
        await sb.enqueue_atomic(entries)
        assert all(each.duplicate for each in await sb.enqueue_atomic(entries))
        assert await _messages(sb, name) == 2

    async def test_a_key_that_was_stored_before_rejects_all(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        earlier = await sb.enqueue(f"{name}.a", 1, idempotency_key="k1")
        with pytest.raises(BatchRejected) as caught:
            await sb.enqueue_atomic([Entry(f"{name}.a", n, idempotency_key=f"k{n}") for n in range(3)])
        error = caught.value
        assert (error.reason, error.index, error.subject, error.stream) == ("duplicate", 1, f"{name}.a", name)
        assert {index: receipt.sequence for index, receipt in error.stored.items()} == {1: earlier.sequence}
        assert await _messages(sb, name) == 1
        await sb.enqueue_atomic([Entry(f"{name}.a", n, idempotency_key=f"k{n}") for n in (0, 2)])
        assert await _messages(sb, name) == 3

    async def test_what_was_stored_one_by_one_before_is_a_duplicate(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in (1, 0):
            await sb.enqueue(f"{name}.a", number, idempotency_key=f"k{number}")
        receipts = await sb.enqueue_atomic([Entry(f"{name}.a", n, idempotency_key=f"k{n}") for n in range(2)])
        assert [(each.sequence, each.duplicate) for each in receipts] == [(2, True), (1, True)]

    async def test_an_expectation_that_does_not_hold_rejects_all(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.ann", 100)
        with pytest.raises(SequenceConflict) as caught:
            await sb.enqueue_atomic(
                [Entry(f"{name}.bob", 40), Entry(f"{name}.ann", 60, expect=Expect(last_subject_sequence=9))]
            )
        assert (caught.value.index, caught.value.subject) == (1, f"{name}.ann")
        assert await _messages(sb, name) == 1

    async def test_expectations_per_subject_all_hold(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for who in ("ann", "bob"):
            await sb.enqueue(f"{name}.{who}", 100)
        receipts = await sb.enqueue_atomic(
            [
                Entry(f"{name}.ann", 60, expect=Expect(last_subject_sequence=1)),
                Entry(f"{name}.bob", 140, expect=Expect(last_subject_sequence=2)),
            ]
        )
        assert [each.sequence for each in receipts] == [3, 4]

    async def test_of_many_batches_that_expect_the_same_one_wins(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        outcomes = await asyncio.gather(
            *(
                sb.enqueue_atomic(
                    [
                        Entry(f"{name}.ann", n, expect=Expect(last_subject_sequence=0)),
                        Entry(f"{name}.bob", n, expect=Expect(last_subject_sequence=0)),
                    ]
                )
                for n in range(8)
            ),
            return_exceptions=True,
        )
        assert [isinstance(each, SequenceConflict) for each in outcomes].count(False) == 1
        assert await _messages(sb, name) == 2

    async def test_an_earlier_entry_counts_for_no_expectation(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption, match="entry 1"):
            await sb.enqueue_atomic(
                [Entry(f"{name}.a", 0), Entry(f"{name}.a", 1, expect=Expect(last_subject_sequence=1))]
            )
        assert await _messages(sb, name) == 0

    async def test_a_full_stream_takes_all_or_nothing(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_msgs=3)
        with pytest.raises(StreamFull):
            await sb.enqueue_atomic([Entry(f"{name}.a", n) for n in range(4)])
        assert await _messages(sb, name) == 0
        await sb.enqueue_atomic([Entry(f"{name}.a", n) for n in range(3)])
        with pytest.raises(StreamFull):
            await sb.enqueue_atomic([Entry(f"{name}.a", 3)])

    async def test_a_full_subject_takes_all_or_nothing(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_msgs_per_subject=2, discard_new_per_subject=True)
        with pytest.raises(StreamFull):
            await sb.enqueue_atomic([Entry(f"{name}.b", 0), *(Entry(f"{name}.a", n) for n in range(3))])
        assert await _messages(sb, name) == 0

    async def test_an_entry_the_stream_was_not_declared_for_rejects_all(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, allow_msg_ttl=False)
        with pytest.raises(FeatureDisabled) as caught:
            await sb.enqueue_atomic([Entry(f"{name}.a", 0), Entry(f"{name}.b", 1, ttl=5)])
        assert caught.value.option == "allow_msg_ttl"
        assert await _messages(sb, name) == 0

    async def test_entries_are_rewritten_and_republished(self, connect: Connect) -> None:
        sb, heard, name = await connect(), list[Any](), fresh("stream")
        rewritten = SubjectTransform(f"{name}.*", f"kept.{name}.{{{{wildcard(1)}}}}")
        republished = Republish(f"live.{name}.>", f"kept.{name}.>")
        await sb.declare(StreamOptions(name, [f"{name}.*"], subject_transform=rewritten, republish=republished))
        await sb.subscribe(f"live.{name}.>", heard.append)
        for _ in range(2):
            await sb.enqueue_atomic([Entry(f"{name}.{at}", at, idempotency_key=at) for at in "ab"])
        await arrived(heard, 2)
        await never(lambda: len(heard) > 2, during=0.1)
        assert [(message.subject, message.json()) for message in heard] == [
            (f"live.{name}.a", "a"),
            (f"live.{name}.b", "b"),
        ]
        stored = await listed(sb.streams.get_last_many(name, [f"kept.{name}.>"]))
        assert bodies(stored) == ["a", "b"]

    async def test_a_stream_without_batches_refuses(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, atomic=False)
        with pytest.raises(BatchRejected) as caught:
            await sb.enqueue_atomic([Entry(f"{name}.a", n) for n in range(2)])
        assert caught.value.reason == "disabled"
        assert await _messages(sb, name) == 0

    async def test_entries_of_two_streams_are_refused(self, connect: Connect) -> None:
        sb = await connect()
        one, other = await a_stream(sb), await a_stream(sb)
        for first, last in ((one, other), (other, one)):
            with pytest.raises(BatchRejected) as caught:
                await sb.enqueue_atomic([Entry(f"{first}.a", 0), Entry(f"{last}.a", 1)])
            assert (caught.value.reason, caught.value.index) == ("streams", 1)
        assert await _messages(sb, one) == await _messages(sb, other) == 0

    @pytest.mark.parametrize("lost", [0, 1])
    async def test_an_entry_nobody_captures_is_told(self, connect: Connect, lost: int) -> None:
        sb = await connect()
        name, subjects = await a_stream(sb), [fresh("nowhere")]
        subjects.insert(1 - lost, f"{name}.a")
        with pytest.raises(NoStream) as caught:
            await sb.enqueue_atomic([Entry(subject, 1) for subject in subjects])
        assert caught.value.subject == subjects[lost]
        assert await _messages(sb, name) == 0

    async def test_too_large_an_entry_is_told_before_anything_is_sent(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(PayloadTooLarge):
            await sb.enqueue_atomic([Entry(f"{name}.a", b""), Entry(f"{name}.a", b"x" * (1 << 20))])
        assert await _messages(sb, name) == 0

    async def test_too_large_an_entry_for_the_stream(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_msg_size=1000)
        with pytest.raises(PayloadTooLarge):
            await sb.enqueue_atomic([Entry(f"{name}.a", b"x" * 2000), Entry(f"{name}.a", b"")])
        assert await _messages(sb, name) == 0

    @pytest.mark.parametrize(
        ("entries", "error"),
        [
            ([], InvalidOption),
            ("abc", InvalidOption),
            (7, InvalidOption),
            ([("a", 1)], InvalidOption),
            ([Entry("s.a", n) for n in range(1001)], InvalidOption),
            ([Entry("s.a", 1), Entry("s.*", 1)], InvalidSubject),
            ([Entry("s.a", 1), Entry("s.a", 1, idempotency_key="")], InvalidKey),
            ([Entry("s.a", 1, idempotency_key="k"), Entry("s.a", 2, idempotency_key="k")], InvalidKey),
            ([Entry("s.a", 1), Entry("s.a", 1, headers={"Nats-Batch-Id": "x"})], InvalidHeader),
            ([Entry("s.a", 1), Entry("s.a", 1, ttl=0.5)], InvalidOption),
            ([Entry("s.a", 1), Entry("s.a", object())], EncodeError),
            ([Entry("s.a", 1, expect=Expect(last_msg_id="x"))], InvalidOption),
            ([Entry("s.a", 1), Entry("s.a", 1, expect=Expect(last_sequence=1))], InvalidOption),
        ],
    )
    async def test_bad_input_is_told_before_anything_is_sent(
        self, connect: Connect, entries: Any, error: type[Exception]
    ) -> None:
        sb = await connect()
        with pytest.raises(error):
            await sb.enqueue_atomic(entries)

    async def test_a_cancelled_batch_ends_at_once_and_the_connection_works(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        entries = [Entry(f"{name}.a", n, idempotency_key=f"k{n}") for n in range(3)]
        sending = asyncio.create_task(sb.enqueue_atomic(entries))
        await asyncio.sleep(0)
        sending.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(sending, return_exceptions=True)
        assert len(await sb.enqueue_atomic(entries)) == 3
        assert await _messages(sb, name) == 3
