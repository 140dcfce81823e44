"""Enqueueing: returned means stored, once, and every failure says what is known."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    EncodeError,
    EnqueueManyError,
    Entry,
    Expect,
    InvalidKey,
    InvalidOption,
    InvalidSubject,
    NoStream,
    PayloadTooLarge,
    SequenceConflict,
    StreamError,
    StreamFull,
)
from broker.testing.conformance.scene import Conformance, a_stream, bodies, fresh, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.testing.conformance.scene import Connect


class EnqueueConformance(Conformance):
    """Promises of ``enqueue``: returned means stored, once, and every failure says what is known."""

    async def test_returned_means_stored(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipt = await sb.enqueue(f"{name}.settle", {"winner": "ann"})
        assert (receipt.stream, receipt.sequence, receipt.duplicate) == (name, 1, False)
        stored = await (await connect()).streams.get_message(name, 1)
        assert stored is not None
        assert stored.json() == {"winner": "ann"}

    async def test_the_same_key_again_is_stored_once(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        first = await sb.enqueue(f"{name}.settle", 1, idempotency_key="battle-1")
        again = await (await connect()).enqueue(f"{name}.settle", 1, idempotency_key="battle-1")
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.sequence == first.sequence
        assert (await sb.streams.info(name)).messages == 1

    async def test_the_same_key_on_another_subject_is_another_message(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipts = [await sb.enqueue(f"{name}.{kind}", 1, idempotency_key="42") for kind in ("settle", "mail")]
        assert [r.duplicate for r in receipts] == [False, False]
        assert (await sb.streams.info(name)).messages == 2

    async def test_with_a_secret_a_key_is_one_message_to_whoever_has_it(self, connect: Connect) -> None:
        ours = "sixteen bytes at least"
        sb, other = await connect(id_secret=ours), await connect(id_secret=ours.encode())
        name = await a_stream(sb)
        receipts = [await each.enqueue(f"{name}.settle", 1, idempotency_key="battle-1") for each in (sb, other, sb)]
        assert [each.duplicate for each in receipts] == [False, True, True]
        stored = await sb.streams.get_message(name, 1)
        assert stored is not None
        assert stored.idempotency_key == "battle-1"

    async def test_without_the_secret_a_key_cannot_be_used_up_for_others(self, connect: Connect) -> None:
        ours = "known to the services only"
        sb = await connect(id_secret=ours)
        name = await a_stream(sb)
        for secret in (None, "the secret of somebody else"):
            stranger = await connect(id_secret=secret)
            assert not (await stranger.enqueue(f"{name}.settle", "forged", idempotency_key="battle-1")).duplicate
        assert not (await sb.enqueue(f"{name}.settle", "honest", idempotency_key="battle-1")).duplicate

    async def test_with_a_secret_messages_without_a_key_are_all_stored(self, connect: Connect) -> None:
        sb = await connect(id_secret=b"0123456789abcdef")
        name = await a_stream(sb)
        assert not any([(await sb.enqueue(f"{name}.a", n)).duplicate for n in range(20)])
        assert (await sb.streams.info(name)).messages == 20

    @pytest.mark.parametrize("secret", ["", "short", b"fifteen bytes..", 16, ["0123456789abcdef"]])
    async def test_a_secret_that_can_be_guessed_is_refused_and_not_shown(self, connect: Connect, secret: Any) -> None:
        with pytest.raises(InvalidOption) as caught:
            await connect(id_secret=secret)
        assert caught.value.option == "id_secret"
        assert not secret or str(secret) not in str(caught.value)

    async def test_key_and_subject_do_not_run_into_each_other(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for subject, key in (("a", "b.c"), ("a.b", "c"), ("a", "b:c"), ("a.b", ":c"), ("a", "b/c")):
            assert not (await sb.enqueue(f"{name}.{subject}", 1, idempotency_key=key)).duplicate
        assert (await sb.streams.info(name)).messages == 5

    async def test_without_a_key_every_call_is_a_message(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipts = [await sb.enqueue(f"{name}.settle", "same") for _ in range(3)]
        assert [(r.sequence, r.duplicate) for r in receipts] == [(1, False), (2, False), (3, False)]

    async def test_a_repeat_is_a_repeat_whatever_it_expected_and_whatever_came_since(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        entry = Entry(f"{name}.wallet", 5, "debit-1", expect=Expect(last_subject_sequence=0))
        first = await sb.enqueue(entry.subject, 5, idempotency_key="debit-1", expect=entry.expect)
        other = await (await connect()).enqueue(entry.subject, 5, idempotency_key="debit-1", expect=entry.expect)
        assert (other.sequence, other.duplicate) == (first.sequence, True)
        await sb.enqueue(entry.subject, 6)
        assert await sb.enqueue_many([entry]) == [other]
        with pytest.raises(SequenceConflict):
            await sb.enqueue(entry.subject, 5, idempotency_key="debit-2", expect=entry.expect)
        assert (await sb.streams.info(name)).messages == 2

    async def test_a_key_is_forgotten_after_the_duplicate_window(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, duplicate_window=0.2)
        await sb.enqueue(f"{name}.a", 1, idempotency_key="k")

        async def again() -> bool:
            return not (await sb.enqueue(f"{name}.a", 1, idempotency_key="k")).duplicate

        await eventually(again)

    @pytest.mark.parametrize("key", ["k", "a b", "Ünï-王", "x" * 255, "a.b>c*", "123", "{}"])
    async def test_a_good_key_comes_back_as_it_was_given(self, connect: Connect, key: str) -> None:
        sb = await connect()
        name = await a_stream(sb)
        assert not (await sb.enqueue(f"{name}.a", 1, idempotency_key=key)).duplicate
        assert (await sb.enqueue(f"{name}.a", 1, idempotency_key=key)).duplicate
        async with sb.read(f"{name}.a") as messages:
            assert (await anext(messages)).idempotency_key == key

    async def test_headers_arrive_without_those_of_the_protocol(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1, headers={"X-Room": ["1", "2"]}, idempotency_key="k", ordering_key="o")
        async with sb.read(f"{name}.a") as messages:
            message = await anext(messages)
        assert list(message.headers) == ["X-Room"]
        assert message.headers.get_all("x-room") == ["1", "2"]
        assert message.ordering_key == "o"  # carried along, with lanes or without

    async def test_a_subject_no_stream_captures_is_told_at_once(self, connect: Connect) -> None:
        sb = await connect()
        began = monotonic()
        with pytest.raises(NoStream) as caught:
            await sb.enqueue("nobody.captures.this", 1)
        assert monotonic() - began < 5
        assert caught.value.subject == "nobody.captures.this"

    async def test_a_core_listener_is_no_stream(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("cmd")
        await sb.respond(subject, lambda _: "pong")
        with pytest.raises(StreamError):
            await sb.enqueue(subject, 1, timeout=0.2)

    async def test_a_full_stream_refuses(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_msgs=2)
        for number in range(2):
            await sb.enqueue(f"{name}.a", number)
        with pytest.raises(StreamFull) as caught:
            await sb.enqueue(f"{name}.a", 2)
        assert caught.value.subject == f"{name}.a"
        assert (await sb.streams.info(name)).messages == 2
        await sb.streams.purge(name)
        await sb.enqueue(f"{name}.a", 2)

    async def test_discard_old_makes_room(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_msgs=2, discard="old")
        for number in range(4):
            await sb.enqueue(f"{name}.a", number)
        state = (await sb.streams.info(name)).state
        assert (state.messages, state.first_sequence, state.last_sequence) == (2, 3, 4)

    async def test_only_the_newest_per_subject_is_kept_when_asked(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_msgs_per_subject=1, discard="old")
        for number in range(6):
            await sb.enqueue(f"{name}.{number % 2}", number)
        async with sb.read(f"{name}.>", until=6) as messages:
            assert bodies(await listed(messages)) == [4, 5]

    async def test_expect_last_sequence(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 0, expect=Expect(last_sequence=0))
        await sb.enqueue(f"{name}.a", 1, expect=Expect(last_sequence=1))
        with pytest.raises(SequenceConflict) as caught:
            await sb.enqueue(f"{name}.a", 2, expect=Expect(last_sequence=1))
        assert caught.value.subject == f"{name}.a"
        assert (await sb.streams.info(name)).messages == 2

    async def test_expect_last_subject_sequence(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 0, expect=Expect(last_subject_sequence=0))
        await sb.enqueue(f"{name}.b", 1, expect=Expect(last_subject_sequence=0))
        await sb.enqueue(f"{name}.a", 2, expect=Expect(last_subject_sequence=1))
        with pytest.raises(SequenceConflict):
            await sb.enqueue(f"{name}.b", 3, expect=Expect(last_subject_sequence=1))
        assert (await sb.streams.info(name)).messages == 3

    async def test_expect_the_last_sequence_over_a_pattern(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(2):
            await sb.enqueue(f"{name}.room.{number}", number)
        over = f"{name}.room.*"
        with pytest.raises(SequenceConflict):
            await sb.enqueue(f"{name}.room.0", 2, expect=Expect(last_subject_sequence=1, subject_filter=over))
        await sb.enqueue(f"{name}.room.0", 2, expect=Expect(last_subject_sequence=2, subject_filter=over))

    async def test_expect_the_stream(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 0, expect=Expect(stream=name))
        with pytest.raises(StreamError):
            await sb.enqueue(f"{name}.a", 1, expect=Expect(stream="another"))
        assert (await sb.streams.info(name)).messages == 1

    async def test_of_many_that_expect_the_same_one_wins(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        outcomes = await asyncio.gather(
            *(sb.enqueue(f"{name}.a", n, expect=Expect(last_subject_sequence=0)) for n in range(10)),
            return_exceptions=True,
        )
        assert [isinstance(each, SequenceConflict) for each in outcomes].count(False) == 1
        assert (await sb.streams.info(name)).messages == 1

    @pytest.mark.parametrize("ttl", [0, -1, 0.5, 1.5, "1"])
    async def test_a_ttl_is_whole_seconds(self, connect: Connect, ttl: Any) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption):
            await sb.enqueue(f"{name}.a", 1, ttl=ttl)
        assert (await sb.streams.info(name)).messages == 0

    async def test_many_at_once_are_all_stored(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipts = await asyncio.gather(*(sb.enqueue(f"{name}.a", n) for n in range(100)))
        assert sorted(r.sequence for r in receipts) == list(range(1, 101))

    async def test_enqueues_are_counted(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for key in ("a", "b", "a"):
            await sb.enqueue(f"{name}.a", 1, idempotency_key=key)
        assert (sb.stats.enqueued, sb.stats.duplicates, sb.stats.published) == (3, 1, 0)

    async def test_a_cancelled_enqueue_ends_at_once_and_the_connection_works(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        sending = asyncio.create_task(sb.enqueue(f"{name}.a", 1, idempotency_key="k"))
        await asyncio.sleep(0)
        sending.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(sending, return_exceptions=True)
        await sb.enqueue(f"{name}.a", 1, idempotency_key="k")
        assert (await sb.streams.info(name)).messages == 1


class EnqueueManyConformance(Conformance):
    """Promises of ``enqueue_many``: the order given, every entry tried, a bounded window."""

    async def test_receipts_come_in_the_order_given(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipts = await sb.enqueue_many(Entry(f"{name}.{n % 3}", n) for n in range(200))
        assert [r.sequence for r in receipts] == list(range(1, 201))
        async with sb.read(f"{name}.>", until=200) as messages:
            assert bodies(await listed(messages)) == list(range(200))

    async def test_nothing_to_send_is_fine(self, connect: Connect) -> None:
        sb = await connect()
        assert await sb.enqueue_many([]) == []

    async def test_an_entry_carries_what_enqueue_takes(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        entry = Entry(f"{name}.a", {"n": 1}, idempotency_key="k", headers={"H": "v"}, expect=Expect(last_sequence=0))
        await sb.enqueue_many([entry])
        async with sb.read(f"{name}.a") as messages:
            message = await anext(messages)
        assert (message.json(), message.idempotency_key, dict(message.headers)) == ({"n": 1}, "k", {"H": "v"})

    async def test_repeats_are_told_one_by_one(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipts = await sb.enqueue_many(Entry(f"{name}.a", 1, idempotency_key=key) for key in "abab")
        assert [r.duplicate for r in receipts] == [False, False, True, True]

    async def test_one_bad_entry_loses_no_other(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        bad = {
            1: (Entry(f"{name}.*", 1), InvalidSubject),
            3: (Entry(f"{name}.a", object()), EncodeError),
            5: (Entry(f"{name}.a", 1, idempotency_key=""), InvalidKey),
            7: (Entry("no.stream.here", 1), NoStream),
            9: (Entry(f"{name}.a", b"x" * (2 << 20)), PayloadTooLarge),
            11: (Entry(f"{name}.a", 1, expect=Expect(last_sequence=999)), SequenceConflict),
        }
        with pytest.raises(EnqueueManyError) as caught:
            await sb.enqueue_many(bad[n][0] if n in bad else Entry(f"{name}.a", n) for n in range(13))
        assert {index: type(error) for index, error in caught.value.errors.items()} == {n: bad[n][1] for n in bad}
        assert sorted(caught.value.receipts) == [0, 2, 4, 6, 8, 10, 12]
        assert (await sb.streams.info(name)).messages == 7

    async def test_a_failed_entry_can_be_repeated_by_its_index(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_msgs=3)
        entries = [Entry(f"{name}.a", n, idempotency_key=str(n)) for n in range(5)]
        with pytest.raises(EnqueueManyError) as caught:
            await sb.enqueue_many(entries)
        assert {type(error) for error in caught.value.errors.values()} == {StreamFull}
        await sb.streams.purge(name)
        receipts = await sb.enqueue_many([entries[index] for index in sorted(caught.value.errors)])
        assert [r.duplicate for r in receipts] == [False, False]

    @pytest.mark.parametrize("window", [1, 7])
    async def test_a_lazy_iterable_is_never_more_than_the_window_ahead(self, connect: Connect, window: int) -> None:
        sb = await connect()
        name, ahead = await a_stream(sb), list[int]()

        def entries() -> Iterator[Entry]:
            for number in range(100):
                ahead.append(number - sb.stats.enqueued)
                yield Entry(f"{name}.a", number)

        assert len(await sb.enqueue_many(entries(), window=window)) == 100
        assert max(ahead) <= window

    async def test_a_window_below_one_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption):
            await sb.enqueue_many([], window=0)

    async def test_a_cancelled_batch_leaves_the_connection_usable(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        sending = asyncio.create_task(sb.enqueue_many((Entry(f"{name}.a", n) for n in range(5_000)), window=4))
        await eventually(lambda: sb.stats.enqueued > 10)
        sending.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await sending
        assert (await sb.enqueue(f"{name}.b", "after")).sequence > 10
