"""Stored messages between nats.js and us: written by one, taken, settled and read by the other."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from broker import ConfigDrift, Entry, Expect, SequenceConflict, StreamOptions
from broker.dead_letters import dead_stream_options
from broker.keys import wire_id
from broker.testing.waiting import eventually
from tests.interop.nodejs import Refused, packed, unpacked

pytestmark = [pytest.mark.xdist_group("nodejs"), pytest.mark.nats, pytest.mark.timeout(300)]

ORDERS = StreamOptions("ORDERS", ["orders.>"])
TRAITS = [["X-Trait", "brave"], ["X-Trait", "quick"], ["lang", "de"]]


def body(number):
    return packed(b"%d" % number)


# -- producing and consuming ------------------------------------------------------------------------------------------


async def test_what_they_store_our_worker_handles(sb, theirs):
    await sb.declare(ORDERS)
    got = []
    await sb.consume("orders.>", got.append, durable="ours")
    for number in range(20):
        await theirs("append", subject="orders.new", data=body(number), headers=TRAITS, options={"msgID": f"n{number}"})
    await eventually(lambda: len(got) == 20, within=20)
    assert [each.json() for each in got] == list(range(20))
    assert got[0].headers.get_all("X-Trait") == ["brave", "quick"]
    assert got[0].idempotency_key is None
    settled = await eventually(lambda: _settled(theirs, "ours"), within=20)
    assert settled["config"]["max_deliver"] == -1


async def test_what_we_store_their_consumer_takes(sb, theirs):
    await sb.declare(ORDERS)
    await theirs("add_consumer", stream="ORDERS", config={"durable_name": "theirs"})
    number = await theirs("consume", stream="ORDERS", name="theirs")
    await sb.enqueue_many(
        [Entry("orders.new", each, f"k{each}", headers={"X-Trait": ["a", "b"]}) for each in range(20)]
    )

    async def arrived():
        return len(await theirs("taken", number=number)) == 20

    await eventually(arrived, within=20)
    taken = await theirs("taken", number=number)
    assert [int(unpacked(each["data"])) for each in taken] == list(range(20))
    headers = taken[0]["headers"]
    assert [value for name, value in headers if name == "X-Trait"] == ["a", "b"]
    assert ["Gamebroker-Key", "k0"] in headers
    assert ["Nats-Msg-Id", wire_id("orders.new", "k0")] in headers
    await eventually(lambda: _settled(theirs, "theirs"), within=20)


# -- duplicates -------------------------------------------------------------------------------------------------------


async def test_each_side_is_told_of_its_own_repeats(sb, theirs):
    await sb.declare(ORDERS)
    first = await theirs("append", subject="orders.new", data=body(1), options={"msgID": "a"})
    again = await theirs("append", subject="orders.new", data=body(1), options={"msgID": "a"})
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert again["seq"] == first["seq"]
    ours = await sb.enqueue("orders.new", 1, idempotency_key="a")
    assert not ours.duplicate
    assert (await sb.enqueue("orders.new", 1, idempotency_key="a")).duplicate
    assert (await sb.streams.info("ORDERS")).state.messages == 2


async def test_their_id_is_the_whole_streams_and_our_key_is_one_subjects(sb, theirs):
    await sb.declare(ORDERS)
    await theirs("append", subject="orders.new", data=body(1), options={"msgID": "a"})
    assert (await theirs("append", subject="orders.paid", data=body(1), options={"msgID": "a"}))["duplicate"]
    assert not (await sb.enqueue("orders.new", 1, idempotency_key="a")).duplicate
    assert not (await sb.enqueue("orders.paid", 1, idempotency_key="a")).duplicate


async def test_they_repeat_our_message_by_its_wire_id_and_we_see_it_too(sb, theirs):
    await sb.declare(ORDERS)
    receipt = await sb.enqueue("orders.new", 1, idempotency_key="battle-42")
    stored = await theirs("stored", stream="ORDERS", query={"seq": receipt.sequence})
    (own,) = [value for name, value in stored["headers"] if name == "Nats-Msg-Id"]
    again = await theirs("append", subject="orders.new", data=body(1), options={"msgID": own})
    assert (again["duplicate"], again["seq"]) == (True, receipt.sequence)
    theirs_first = await theirs(
        "append", subject="orders.new", data=body(1), options={"msgID": wire_id("orders.new", "battle-43")}
    )
    ours_again = await sb.enqueue("orders.new", 1, idempotency_key="battle-43")
    assert ours_again == ("ORDERS", theirs_first["seq"], True)


async def test_they_send_what_we_would_have_sent(sb, theirs):
    await sb.declare(ORDERS)
    own = await theirs("wire_id", subject="orders.new", key="Schlacht-42-ü")
    assert own == wire_id("orders.new", "Schlacht-42-ü")
    headers = [["Gamebroker-Key", "Schlacht-42-ü"]]
    first = await theirs("append", subject="orders.new", data=body(1), headers=headers, options={"msgID": own})
    assert await sb.enqueue("orders.new", 1, idempotency_key="Schlacht-42-ü") == ("ORDERS", first["seq"], True)
    async with sb.read("orders.>", until="end") as reader:
        assert [msg.idempotency_key async for msg in reader] == ["Schlacht-42-ü"]


# -- one durable, two clients -----------------------------------------------------------------------------------------


async def test_a_shared_durable_is_made_there_and_worked_on_by_both(sb, theirs):
    await sb.declare(ORDERS)
    await theirs("add_consumer", stream="ORDERS", config={"durable_name": "crew", "max_deliver": -1})
    await sb.enqueue_many([Entry("orders.new", each) for each in range(300)])
    ours = []

    async def slowly(msg):
        ours.append(msg.json())
        await asyncio.sleep(0.002)

    worker = await sb.consume("orders.>", slowly, durable="crew", stream="ORDERS", ensure="bind", concurrency=2)
    number = await theirs("consume", stream="ORDERS", name="crew")
    await eventually(lambda: _settled(theirs, "crew"), within=60)
    got = [int(unpacked(each["data"])) for each in await theirs("taken", number=number)]
    await worker.drain()
    assert sorted(ours + got) == list(range(300))
    assert ours
    assert got


async def test_a_durable_made_here_is_fetched_from_there(sb, theirs):
    await sb.declare(ORDERS)
    worker = await sb.consume("orders.>", lambda _: None, durable="crew")
    await worker.drain()
    await sb.enqueue("orders.new", 7)
    lent = await theirs("next", stream="ORDERS", name="crew")
    assert unpacked(lent["data"]) == b"7"
    assert await theirs("settle", loan=lent["loan"], how="ack_confirmed") is True


async def test_how_a_durable_made_there_differs_is_named(sb, theirs):
    await _crew(sb, theirs)
    with pytest.raises(ConfigDrift) as caught:
        await sb.consume("orders.>", lambda _: None, durable="crew")
    assert {"filters", "max_ack_pending"} <= set(caught.value.differences)


async def test_attempts_are_the_consumers_whoever_gave_the_message_back(sb, theirs):
    await _crew(sb, theirs)
    await sb.declare(dead_stream_options())
    await sb.enqueue("orders.new", 1)
    for attempt in (1, 2):
        lent = await theirs("next", stream="ORDERS", name="crew")
        assert lent["attempt"] == attempt
        await theirs("settle", loan=lent["loan"], how="nak")
    attempts = []

    def fail(msg):
        attempts.append(msg.attempt)
        raise ValueError("never")

    await sb.consume("orders.>", fail, durable="crew", stream="ORDERS", ensure="bind", max_deliver=3)

    async def letters():
        return [each async for each in sb.dead_letters.list()]

    (letter,) = await eventually(letters, within=20)
    assert (letter.attempts, attempts) == (3, [3])


async def test_what_they_give_back_we_get_again_and_the_other_way_round(sb, theirs):
    await _crew(sb, theirs)
    await sb.enqueue("orders.new", 1)
    lent = await theirs("next", stream="ORDERS", name="crew")
    assert lent["attempt"] == 1
    await theirs("settle", loan=lent["loan"], how="nak")
    async with sb.pull("orders.>", durable="crew", stream="ORDERS", ensure="bind") as puller:
        msg = await puller.next(timeout=20)
        assert msg.attempt == 2
        await msg.nak()
        lent = await theirs("next", stream="ORDERS", name="crew")
        assert lent["attempt"] == 3
        await theirs("settle", loan=lent["loan"], how="nak", delay=1000)
        assert await puller.fetch(1, timeout=0.3) == []
        msg = await puller.next(timeout=20)
        assert msg.attempt == 4
        await msg.ack(confirm=True)
    assert (await theirs("consumer", stream="ORDERS", name="crew"))["unsettled"] == 0


async def test_what_one_side_terminates_the_other_never_gets(sb, theirs):
    await _crew(sb, theirs, ack_wait=1.0)
    await sb.enqueue_many([Entry("orders.new", each) for each in range(2)])
    lent = await theirs("next", stream="ORDERS", name="crew")
    await theirs("settle", loan=lent["loan"], how="term", reason="not mine")
    async with sb.pull("orders.>", durable="crew", stream="ORDERS", ensure="bind") as puller:
        msg = await puller.next(timeout=20)
        assert msg.json() == 1
        await msg.term("nor mine")
        assert await puller.fetch(1, timeout=2) == []
    assert await theirs("next", stream="ORDERS", name="crew", expires=2000) is None
    assert (await theirs("consumer", stream="ORDERS", name="crew"))["unsettled"] == 0


async def test_while_one_side_says_it_works_the_other_gets_nothing(sb, theirs):
    await _crew(sb, theirs, ack_wait=3.0)
    await sb.enqueue("orders.new", 1)
    async with sb.pull("orders.>", durable="crew", stream="ORDERS", ensure="bind") as puller:
        lent = await theirs("next", stream="ORDERS", name="crew")
        for _ in range(8):
            await theirs("settle", loan=lent["loan"], how="in_progress")
            assert await puller.fetch(1, timeout=0.5) == []
        msg = await puller.next(timeout=20)
        assert msg.attempt == 2
        asking = asyncio.ensure_future(theirs("next", stream="ORDERS", name="crew", expires=4000))
        for _ in range(8):
            await msg.in_progress()
            await asyncio.sleep(0.5)
        assert await asking is None
        await msg.ack(confirm=True)


async def test_a_confirmed_ack_of_theirs_is_the_servers_word(sb, theirs):
    await _crew(sb, theirs)
    await sb.enqueue("orders.new", 1)
    lent = await theirs("next", stream="ORDERS", name="crew")
    assert await theirs("settle", loan=lent["loan"], how="ack_confirmed") is True
    assert (await theirs("consumer", stream="ORDERS", name="crew"))["unsettled"] == 0


async def test_our_dead_letter_of_their_message_keeps_their_headers(sb, theirs):
    await sb.declare(ORDERS)
    await theirs("append", subject="orders.bad", data=packed(b"{"), headers=TRAITS, options={"msgID": "theirs-1"})
    await sb.consume("orders.>", lambda msg: msg.json(), durable="crew", max_deliver=1)

    async def letters():
        return [each async for each in sb.dead_letters.list()]

    (letter,) = await eventually(letters, within=20)
    assert (letter.subject, letter.data) == ("orders.bad", b"{")
    assert letter.headers.get_all("X-Trait") == ["brave", "quick"]


# -- reading ----------------------------------------------------------------------------------------------------------


async def test_their_ordered_consumer_reads_our_stream_past_a_deleted_consumer(sb, theirs):
    await sb.declare(ORDERS)
    await sb.enqueue_many([Entry("orders.new", each) for each in range(500)])
    number = await theirs("read", stream="ORDERS", subject="orders.>")

    async def arrived(count):
        return len(await theirs("taken", number=number)) == count

    await eventually(lambda: arrived(500), within=20)
    for name in [name async for name in sb.consumers.names("ORDERS")]:
        await sb.consumers.delete("ORDERS", name)
    await sb.enqueue_many([Entry("orders.new", each) for each in range(500, 600)])
    await eventually(lambda: arrived(600), within=60)
    taken = await theirs("taken", number=number)
    assert [each["sequence"] for each in taken] == list(range(1, 601))


async def test_our_read_goes_over_their_stream(sb, theirs):
    await theirs("add_stream", config={"name": "ORDERS", "subjects": ["orders.>"], "allow_direct": True})
    await asyncio.gather(*(theirs("append", subject="orders.new", data=body(each)) for each in range(500)))
    async with sb.read("orders.>", until="end") as reader:
        assert [msg.sequence async for msg in reader] == list(range(1, 501))
    stored = await sb.streams.get_last("ORDERS", "orders.new")
    assert stored.sequence == 500


async def test_a_stream_of_theirs_is_declared_by_what_it_is(sb, theirs):
    await theirs("add_stream", config={"name": "ORDERS", "subjects": ["orders.>"]})
    config = (await sb.streams.info("ORDERS")).config
    await sb.declare(config)
    assert (config.subjects, config.discard, config.atomic, config.allow_msg_ttl) == (
        ("orders.>",),
        "old",
        False,
        False,
    )


# -- expectations, batches, schedules, time to live -------------------------------------------------------------------


async def test_expectations_hold_over_both_sides_writes(sb, theirs):
    await sb.declare(ORDERS)
    one = await sb.enqueue("orders.new", 1)
    two = await theirs(
        "append", subject="orders.new", data=body(2), options={"expect": {"lastSubjectSequence": one.sequence}}
    )
    with pytest.raises(Refused, match="wrong last sequence"):
        await theirs("append", subject="orders.new", data=body(3), options={"expect": {"lastSequence": one.sequence}})
    with pytest.raises(SequenceConflict):
        await sb.enqueue("orders.new", 3, expect=Expect(last_subject_sequence=one.sequence))
    assert (await sb.enqueue("orders.new", 3, expect=Expect(last_subject_sequence=two["seq"]))).sequence == 3


async def test_batches_of_both_sides_are_all_or_nothing(sb, theirs):
    await sb.declare(ORDERS)
    number = await theirs("read", stream="ORDERS", subject="orders.>")
    ack = await theirs("append_atomic", entries=[{"subject": "orders.new", "data": body(each)} for each in range(3)])
    assert (ack["count"], ack["seq"]) == (3, 3)
    refused = [
        {"subject": "orders.new", "data": body(3)},
        {"subject": "orders.paid", "data": body(4), "headers": [["Nats-Expected-Last-Subject-Sequence", "7"]]},
        {"subject": "orders.new", "data": body(5)},
    ]
    with pytest.raises(Refused, match="batch didn't contain"):
        await theirs("append_atomic", entries=refused)
    receipts = await sb.enqueue_atomic([Entry("orders.new", each, f"k{each}") for each in range(3, 6)])
    assert [each.sequence for each in receipts] == [4, 5, 6]
    async with sb.read("orders.>", until="end") as reader:
        assert [msg.json() async for msg in reader] == list(range(6))

    async def arrived():
        return len(await theirs("taken", number=number)) == 6

    await eventually(arrived, within=20)


async def test_what_we_schedule_arrives_there(sb, theirs):
    await sb.declare(StreamOptions("LATER", ["later.>"], discard="old", schedules=True))
    number = await theirs("read", stream="LATER", subject="later.>")
    await sb.schedule("later.mail", b"hello", delay=1, key="mail-1", headers={"X-Trait": ["a", "b"]})
    (told,) = await eventually(lambda: theirs("taken", number=number), within=20)
    assert (told["subject"], unpacked(told["data"])) == ("later.mail", b"hello")
    assert [value for name, value in told["headers"] if name == "X-Trait"] == ["a", "b"]


async def test_what_they_schedule_our_worker_handles_when_it_is_due(sb, theirs):
    await sb.declare(StreamOptions("LATER", ["later.>"], discard="old", schedules=True))
    got = []
    await sb.consume("later.mail", got.append, durable="ours")
    due = datetime.now(UTC) + timedelta(seconds=2)
    schedule = {"specification": f"@at {due.strftime('%Y-%m-%dT%H:%M:%SZ')}", "target": "later.mail"}
    await theirs("append", subject="later.waiting.1", data=packed(b"hello"), options={"schedule": schedule})
    await eventually(lambda: got, within=20)
    assert got[0].data == b"hello"
    assert not await sb.cancel("later.waiting.1")


async def test_a_time_to_live_given_there_ends_it_for_us(sb, theirs):
    await sb.declare(ORDERS)
    await theirs("append", subject="orders.new", data=body(1), options={"ttl": "1s"})
    await theirs("append", subject="orders.paid", data=body(2))

    async def left():
        return (await sb.streams.info("ORDERS")).state.messages == 1

    await eventually(left, within=20)
    async with sb.read("orders.>", until="end") as reader:
        assert [msg.json() async for msg in reader] == [2]


async def _crew(sb, theirs, ack_wait=30.0):
    """One durable, made there."""
    await sb.declare(ORDERS)
    config = {"durable_name": "crew", "ack_wait": int(ack_wait * 1e9)}
    await theirs("add_consumer", stream="ORDERS", config=config)


async def _settled(theirs, name):
    """Its consumer once nothing waits and nothing is in hand."""
    found = await theirs("consumer", stream="ORDERS", name=name)
    return None if found["pending"] or found["unsettled"] else found
