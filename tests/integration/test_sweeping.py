"""What the server itself gave up on ends among the dead letters: consumers with a limit, as others make them."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from broker import (
    ConsumerOptions,
    Entry,
    StreamBroker,
    StreamOptions,
    Swept,
)
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.conformance.scene import letters
from broker.testing.waiting import eventually
from tests.limited import NOTICES, lent, limited, worn_out

pytestmark = pytest.mark.nats

NOTHING = Swept()
KINDS = ["limits", "workqueue", "interest"]


async def a_limited(sb, retention="limits", number=3, **options):
    """Stream S with messages, all of them worn out at consumer ``w``."""
    await sb.declare(StreamOptions("S", ["s.>"], retention=retention))
    await limited(sb, **options)
    await sb.enqueue_many(Entry("s.a", n, idempotency_key=f"key-{n}", headers={"Room": "7"}) for n in range(number))
    await worn_out(sb, number, options.get("max_deliver", 2))


async def stored(sb, stream="S"):
    return (await sb.streams.info(stream)).messages


@pytest.mark.parametrize("retention", KINDS)
async def test_what_the_server_gave_up_on_is_written_and_settled(sb, retention):
    await a_limited(sb, retention)
    assert await sb.dead_letters.sweep("S") == Swept(written=3)
    assert await stored(sb) == (3 if retention == "limits" else 0)
    assert (await sb.consumers.info("S", "w")).redelivered == 0
    assert await stored(sb, NOTICES) == 0
    assert len(await letters(sb)) == 3
    assert await sb.dead_letters.sweep("S") == NOTHING
    assert sb.stats.dead_lettered == 3


async def test_the_letter_tells_the_whole_story_and_can_be_replayed(sb):
    await a_limited(sb, number=1)
    await sb.dead_letters.sweep("S", "w")
    [letter] = await letters(sb, stream="S", consumer="w")
    assert (letter.subject, letter.data, dict(letter.headers)) == ("s.a", b"0", {"Room": "7"})
    assert (letter.stream_sequence, letter.attempts, letter.reason) == (1, 2, "max_deliver (server)")
    assert (letter.error, letter.error_type, letter.idempotency_key) == ("", "", "key-0")
    assert letter.first_seen < letter.last_seen
    assert abs(datetime.now(UTC) - letter.last_seen) < timedelta(minutes=5)
    assert await sb.dead_letters.replay(letter) == 1
    async for [again] in lent(sb, 1):
        assert (again.json(), again.attempt, again.idempotency_key) == (0, 1, "key-0")
        await again.ack()
    assert await sb.dead_letters.sweep("S") == NOTHING


async def test_a_last_attempt_whose_wait_passed_is_decided_by_the_sweep(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await limited(sb, ack_wait=0.5)
    await sb.enqueue("s.a", 1)
    for _ in range(2):  # two processes take it and die without a word
        async for _taken in lent(sb, 1):
            pass
    await sb.dead_letters.sweep("S")  # the notices are kept from now on, too

    async def swept():
        return await sb.dead_letters.sweep("S") == Swept(written=1) or await letters(sb)

    await eventually(swept, within=15)
    [letter] = await letters(sb)
    assert letter.attempts == 2


@pytest.mark.parametrize("retention", KINDS)
async def test_one_attempt_only_is_decided_by_the_clock(sb, retention):
    await sb.declare(StreamOptions("S", ["s.>"], retention=retention))
    await limited(sb, max_deliver=1, ack_wait=0.3)
    await sb.dead_letters.sweep("S")
    await sb.enqueue("s.a", 1)
    async for _taken in lent(sb, 1):
        pass
    await eventually(lambda: _count(sb, NOTICES, 1))
    assert await sb.dead_letters.sweep("S") == Swept(written=1)
    [letter] = await letters(sb)
    assert letter.attempts == 1


async def _count(sb, stream, number):
    return await stored(sb, stream) == number


async def test_a_sweep_takes_nothing_from_workers_and_counts_no_attempt(sb):
    await sb.declare(StreamOptions("S", ["s.>"], retention="workqueue"))
    await limited(sb, max_deliver=3)
    await sb.enqueue_many(Entry("s.a", n) for n in range(6))
    async for taken in lent(sb, 6):
        for message in taken[:4]:
            await message.nak(delay=0)  # due again, and not yet with anybody
        await sb.flush()
        for _ in range(3):
            assert (await sb.dead_letters.sweep("S")).written == 0
    async for taken in lent(sb, 4):
        assert [message.attempt for message in taken] == [2, 2, 2, 2]
    info = await sb.consumers.info("S", "w")
    assert (info.ack_pending, info.waiting) == (6, 0)


async def test_what_is_given_up_between_messages_that_are_due_is_found(sb):
    await sb.declare(StreamOptions("S", ["s.>"], retention="workqueue"))
    await limited(sb)
    await sb.enqueue_many(Entry("s.a", n) for n in range(3))
    async for taken in lent(sb, 3):
        await taken[2].nak(delay=0)
        await sb.flush()
        async for [last] in lent(sb, 1):
            assert (last.json(), last.attempt) == (2, 2)
            for message in (*taken[:2], last):
                await message.nak(delay=0)
    swept = await sb.dead_letters.sweep("S")
    assert swept.written == 1
    assert [each.data for each in await letters(sb)] == [b"2"]
    async for taken in lent(sb, 2):
        assert sorted((message.json(), message.attempt) for message in taken) == [(0, 2), (1, 2)]


@pytest.mark.parametrize("max_deliver", [1, 2])
@pytest.mark.parametrize("retention", ["workqueue", "interest"])
async def test_what_no_notice_told_of_is_found_where_acks_remove_messages(sb, retention, max_deliver):
    await a_limited(sb, retention, max_deliver=max_deliver)
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))  # before any notice is kept
    await eventually(lambda: _in_hand(sb, 0))
    await sb.enqueue("s.a", b"fine")
    async for [fine] in lent(sb, 1):
        await fine.ack()
    assert await sb.dead_letters.sweep("S") == Swept(written=3)
    assert sorted(each.data for each in await letters(sb)) == [b"0", b"1", b"2"]
    assert {each.attempts for each in await letters(sb)} == {max_deliver}
    assert await stored(sb) == 0
    assert await sb.dead_letters.sweep("S") == NOTHING


async def _in_hand(sb, number):
    return (await sb.consumers.info("S", "w")).ack_pending == number


async def test_without_a_notice_what_is_in_hand_is_left_for_the_next_sweep(sb):
    await a_limited(sb, "workqueue")
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))
    await eventually(lambda: _in_hand(sb, 0))
    await sb.enqueue("s.a", b"slow")
    async for [slow] in lent(sb, 1):
        assert await sb.dead_letters.sweep("S") == Swept(undecided=3)
        assert await letters(sb) == []
        await slow.ack(confirm=True)
    assert await sb.dead_letters.sweep("S") == Swept(written=3)


async def test_on_a_stream_that_keeps_everything_it_is_told_how_many_and_never_guessed(sb):
    await a_limited(sb)
    await sb.enqueue("s.a", b"fine")
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))
    await eventually(lambda: _in_hand(sb, 0))
    async for [fine] in lent(sb, 1):
        assert await sb.dead_letters.sweep("S") == Swept(unknown=2, undecided=1)  # it may be the third
        await fine.ack(confirm=True)
    assert await sb.dead_letters.sweep("S") == Swept(unknown=3)
    assert await letters(sb) == []
    # What the documentation says to do about it: hand everything out again, from where they may be.
    await sb.consumers.reset("S", "w", sequence=1)
    assert await sb.dead_letters.sweep("S") == NOTHING
    async for taken in lent(sb, 4):
        for message in taken:
            await message.ack(confirm=True)


async def test_what_the_stream_no_longer_has_is_counted_and_forgotten(sb):
    await a_limited(sb)
    await sb.dead_letters.sweep("S")
    await sb.enqueue_many(Entry("s.a", n) for n in range(2))
    await worn_out(sb, 2)
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))
    await eventually(lambda: _count(sb, NOTICES, 2))
    assert await sb.streams.delete_message("S", 4)
    assert await sb.dead_letters.sweep("S") == Swept(written=1, gone=1)
    assert await sb.dead_letters.sweep("S") == NOTHING


@pytest.mark.parametrize("retention", ["limits", "workqueue"])
@pytest.mark.parametrize("how", ["reset", "made anew", "deleted"])
async def test_what_is_handed_out_again_after_all_is_not_written(sb, retention, how):
    await a_limited(sb, retention)
    await sb._streams.exhausted.keep_notices(1)
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))
    await eventually(lambda: _count(sb, NOTICES, 3))
    if how == "reset":
        await sb.consumers.reset("S", "w", sequence=1)
    else:
        await sb.consumers.delete("S", "w")
    if how == "made anew":
        await limited(sb)
    # Where nothing tells what a consumer that is gone would have done, it is kept.
    written = 3 if (how, retention) == ("deleted", "limits") else 0
    assert await sb.dead_letters.sweep("S") == Swept(written=written)
    assert await stored(sb, NOTICES) == 0
    if how == "deleted":
        await limited(sb)
    async for taken in lent(sb, 3):
        assert [message.attempt for message in taken] == [1, 1, 1]


@pytest.mark.parametrize("other", [{"deliver_policy": "new"}, {"filter_subject": "s.b"}])
async def test_a_consumer_that_was_made_anew_to_leave_it_out_settles_nothing(sb, other):
    await a_limited(sb)
    await sb._streams.exhausted.keep_notices(1)
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))
    await eventually(lambda: _count(sb, NOTICES, 3))
    await sb.consumers.delete("S", "w")
    await limited(sb, **other)
    assert await sb.dead_letters.sweep("S") == Swept(written=3)
    assert await sb.dead_letters.sweep("S") == NOTHING


async def test_every_consumer_of_the_stream_is_swept_or_the_one_that_is_named(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    for name in ("one", "two"):
        await limited(sb, name)
    await sb.consumers.create(ConsumerOptions(durable="ours", stream="S"))
    await sb.enqueue("s.a", 1)
    for name in ("one", "two"):
        await worn_out(sb, 1, consumer=name)
    assert await sb.dead_letters.sweep("S", "ours") == NOTHING
    assert await sb.dead_letters.sweep("S", "one") == Swept(written=1)
    assert [each.consumer for each in await letters(sb)] == ["one"]
    assert await sb.dead_letters.sweep("S") == Swept(written=1)
    assert sorted(each.consumer for each in await letters(sb)) == ["one", "two"]


async def test_where_another_consumer_still_needs_it_the_message_stays(sb):
    await sb.declare(StreamOptions("S", ["s.>"], retention="interest"))
    for name in ("one", "two"):
        await limited(sb, name)
    await sb.enqueue("s.a", 1)
    await worn_out(sb, 1, consumer="one")
    assert await sb.dead_letters.sweep("S") == Swept(written=1)
    async for [message] in lent(sb, 1, consumer="two"):
        assert (message.json(), message.attempt) == (1, 1)
        await message.ack(confirm=True)
    assert await stored(sb) == 0


async def test_filters_of_the_consumer_are_kept_to(sb):
    await sb.declare(StreamOptions("S", ["s.>"], retention="workqueue"))
    await limited(sb, filter_subjects=["s.a", "s.b"])
    await sb.enqueue_many(Entry(subject, n) for n, subject in enumerate(["s.other", "s.a", "s.b", "s.other"]))
    await worn_out(sb, 2)
    await sb._streams.exhausted.decide(await sb.consumers.info("S", "w"))
    await eventually(lambda: _in_hand(sb, 0))
    assert await sb.dead_letters.sweep("S") == Swept(written=2)
    assert await stored(sb) == 2


@pytest.mark.parametrize("policy", ["overflow", "pinned_client", "prioritized"])
async def test_priority_groups_are_decided_as_well(sb, policy):
    await sb.declare(StreamOptions("S", ["s.>"]))
    timeout = {"priority_timeout": 2_000_000_000} if policy == "pinned_client" else {}
    await limited(sb, priority_policy=policy, priority_groups=["g"], **timeout)
    await sb.enqueue("s.a", 1)
    for _ in range(2):
        async with sb.pull("s.>", durable="w", stream="S", ensure="bind", priority_group="g") as puller:
            [message] = await puller.fetch(1, timeout=10)
            await message.nak(delay=0)
            await sb.flush()
    assert await sb.dead_letters.sweep("S") == Swept(written=1)


async def test_one_ack_for_many_is_never_settled_for_one(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await limited(sb, ack_policy="all")
    await sb.enqueue_many(Entry("s.a", n) for n in range(2))
    async for taken in lent(sb, 2):
        await taken[1].nak(delay=0)
        await sb.flush()
        async for [last] in lent(sb, 1):
            await last.nak(delay=0)
    assert await sb.dead_letters.sweep("S") == Swept(written=1)
    assert [each.data for each in await letters(sb)] == [b"1"]
    assert (await sb.consumers.info("S", "w")).ack_pending == 1  # the first one is still in hand


@pytest.mark.parametrize("retention", ["limits", "workqueue"])
async def test_one_too_large_for_a_letter_is_referred_to_or_stays(sb, retention):
    await sb.declare(StreamOptions("S", ["s.>"], retention=retention))
    await limited(sb)
    await sb.enqueue("s.a", b"x" * (sb._streams.max_payload - 200))
    await worn_out(sb, 1)
    for _ in range(2):
        swept = await sb.dead_letters.sweep("S")
    found = await letters(sb)
    if retention == "limits":
        assert swept == NOTHING
        assert [(each.complete, each.attempts) for each in found] == [(False, 2)]
        assert await sb.dead_letters.replay(found[0]) == 1
    else:
        assert (swept, found, await stored(sb)) == (Swept(undecided=1), [], 1)


@pytest.mark.parametrize("retention", ["limits", "workqueue"])
async def test_two_sweeps_at_once_write_each_letter_once(sb, nats_server, link, retention):
    await a_limited(sb, retention, number=20)
    async with StreamBroker.connect(nats_server.url, link=link) as other:
        await asyncio.gather(sb.dead_letters.sweep("S"), other.dead_letters.sweep("S"))
    assert sorted(each.stream_sequence for each in await letters(sb)) == list(range(1, 21))
    assert await sb.dead_letters.sweep("S") == NOTHING


@pytest.mark.timeout(180)
@pytest.mark.parametrize("retention", ["limits", "workqueue"])
async def test_cut_short_anywhere_nothing_is_lost_and_nothing_doubled(sb, retention, monkeypatch):
    monkeypatch.setattr("broker.sweeping._GRACE", 0.2)
    await sb.declare(StreamOptions("S", ["s.>"], retention=retention))
    await limited(sb)
    # Repeats must be kept out by what is stored, not by the window in which the server drops them.
    await sb.declare(StreamOptions("GAMEBROKER_DEAD_LETTERS", ["gamebroker.dead.>"], duplicate_window=0.1))
    if retention == "limits":  # the others are found without
        await sb._streams.exhausted.keep_notices(1)
    number = cancelled = 0

    async def give_up_on_two():
        nonlocal number
        await sb.enqueue_many(Entry("s.a", number + n) for n in range(2))
        await worn_out(sb, 2)
        number += 2

    await give_up_on_two()
    async for run in cancelled_everywhere(lambda: sb.dead_letters.sweep("S")):
        cancelled += run.reached
        await asyncio.sleep(0.12)
        found = [int(each.data) for each in await letters(sb)]
        assert len(found) == len(set(found))
        assert (
            await stored(sb) == number if retention == "limits" else number - len(found) <= await stored(sb) <= number
        )
        if number < 40:
            await give_up_on_two()
    assert cancelled > 20
    assert sorted(int(each.data) for each in await letters(sb)) == list(range(number))
    assert await sb.dead_letters.sweep("S") == NOTHING
    assert await stored(sb) == (number if retention == "limits" else 0)
