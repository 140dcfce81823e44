"""What is easily done wrong is told in words that name the thing and what to do about it."""

import asyncio
import subprocess
import sys
import time
from datetime import date, datetime

import pytest

from broker import ApiError, ConfigDrift, Consumption, Entry, FeatureDisabled, InvalidOption, NoStream, StreamBroker
from broker import StreamOptions as Options
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.backends.nats import errors
from broker.testing.waiting import eventually


def memory():
    return StreamBroker(MemoryBackend(MemoryHub()))


def test_a_program_that_forgets_to_close_ends_with_its_own_error():
    """asyncio.run cancels what runs when its loop has stopped already."""

    async def main():
        sb = memory()
        await sb.declare(Options("S", ["s.>"]))
        await sb.consume("s.a", lambda _: asyncio.sleep(60), durable="plain")

        async def forever(_msg):
            await asyncio.sleep(60)

        await sb.consume("s.a", forever, durable="w")
        await sb.enqueue("s.a", 1)
        await eventually(lambda: sb.stats.delivered >= 1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        asyncio.run(main())


FAILS = """
import asyncio
from broker import Broker

async def main():
    async with Broker.connect("memory://") as broker:
        await broker.subscribe("room", lambda msg: 1 / 0)
        await broker.publish("room", b"")
        await broker.flush()

asyncio.run(main())
"""


def test_a_handler_that_fails_is_seen_though_nobody_configured_logging():
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, timeout=18, check=True)
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "handler failed on 'room'" in done.stderr


async def test_a_consumer_without_a_stream_is_told_to_declare_one():
    async with memory() as sb:
        with pytest.raises(NoStream, match=r"no stream captures 's\.a'; declare one whose subjects match it"):
            await sb.consume("s.a", print, durable="w")


def test_a_url_for_the_class_itself_names_the_class_that_was_called():
    with pytest.raises(InvalidOption, match=r"use StreamBroker\.connect\(url\)"):
        StreamBroker("nats://127.0.0.1:4222")


async def test_a_list_of_streams_is_told_how_several_are_declared():
    async with memory() as sb:
        with pytest.raises(InvalidOption, match=r"not list .*; several: declare\(\*streams\)") as refused:
            await sb.declare([Options("S", ["s.>"])])
        assert len(str(refused.value)) < 200


async def test_drift_names_the_consumer_and_its_stream():
    async with memory() as sb:
        await sb.declare(Options("S", ["s.>"]))
        await sb.consume("s.a", print, durable="w", ack_wait=30)
        with pytest.raises(ConfigDrift, match="consumer w of stream S differs from what was asked: ack_wait: asked 60"):
            await sb.consume("s.a", print, durable="w", ack_wait=60)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"start": date(2026, 1, 1)}, "start=.*: must be a word, a sequence or a datetime"),
        ({"start": datetime(2026, 1, 1)}, "start=.*: the time needs a time zone"),  # noqa: DTZ001 - the mistake
        ({"start": True}, "start=True: must be a whole number"),
        ({"until": "now"}, 'until=.*: must be "end", a sequence or a datetime'),
        ({"until": datetime(2026, 1, 1)}, "until=.*: the time needs a time zone"),  # noqa: DTZ001 - the mistake
    ],
)
async def test_where_reading_begins_and_ends_is_told_by_its_own_name(asked, told):
    async with memory() as sb:
        await sb.declare(Options("S", ["s.>"]))
        with pytest.raises(InvalidOption, match=told):
            sb.read("s.a", **asked)


async def test_a_message_that_gave_up_is_logged_with_its_dead_letter(caplog):
    async def fail(_msg):
        raise LookupError("no such player")

    async with memory() as sb:
        await sb.declare(Options("S", ["s.>"]), Options("L", ["l.>"], lanes=1))
        await sb.consume("s.a", fail, durable="w", max_deliver=1)
        await sb.consume("l.a", fail, durable="board", ordered=True, max_deliver=1)
        await sb.enqueue("s.a", 1)
        await eventually(lambda: "'s.a' (S sequence 1) gave up in w, max_deliver: dead letter 1" in caplog.text)
        await sb.enqueue("l.a", 1, ordering_key="ann")
        told = "gave up in board, max_deliver: dead letter 2; its key 'ann' waits until that is replayed or discarded"
        await eventually(lambda: told in caplog.text)


async def test_replaying_a_letter_that_was_not_found_does_not_replay_all_of_them():
    async with memory() as sb:
        for nothing in (await sb.dead_letters.get(7), "7"):
            with pytest.raises(InvalidOption, match=r"letter=.*: must be a dead letter or its sequence"):
                await sb.dead_letters.replay(nothing)
            with pytest.raises(InvalidOption, match=r"letter=.*: must be a dead letter or its sequence"):
                await sb.dead_letters.discard(nothing)


async def test_a_batch_that_fails_is_logged_once_with_how_many_it_is_about(caplog):
    def one(msg):
        return msg.subject  # the mistake: it gets a list

    async with memory() as sb:
        await sb.declare(Options("S", ["s.>"]))
        await sb.enqueue_many(Entry("s.a", n) for n in range(3))
        await sb.consume("s.a", one, durable="w", batch_size=3)
        await eventually(lambda: "'s.a' (S sequence 1, attempt 1 of w) and 2 more of its batch" in caplog.text)
        assert caplog.text.count("handler failed") == 1


async def test_a_handler_that_stops_the_event_loop_beyond_the_ack_wait_is_told_what_it_costs(caplog):
    async def blocks(_msg):
        time.sleep(0.4)  # noqa: ASYNC251 - the mistake

    async with memory() as sb:
        await sb.declare(Options("S", ["s.>"]))
        await sb.enqueue_many(Entry("s.a", n) for n in range(4))
        await sb.consume("s.a", blocks, durable="w", ack_wait=0.2)
        await eventually(lambda: "longer than ack_wait=0.2 of w" in caplog.text)
        assert "asyncio.to_thread" in caplog.text


async def test_every_consumption_tells_how_many_keys_wait():
    async with memory() as sb:
        await sb.declare(Options("S", ["s.>"]))
        worker: Consumption = await sb.consume("s.a", print, durable="w")
        assert worker.parked_keys == 0


def test_a_refusal_shows_its_advice_in_a_traceback():
    words = "subjects overlap with an existing stream"
    error = errors.from_api({"code": 400, "err_code": 10065, "description": words})
    assert isinstance(error, ApiError)
    assert error.__notes__ == [error.advice]


def test_a_feature_that_is_off_or_in_the_way_is_told_by_the_advice():
    told = {"code": 400, "err_code": 10169, "description": "message counter increment is missing"}
    error = errors.from_api(told, stream="KILLS")
    assert isinstance(error, FeatureDisabled)
    assert str(error).endswith(": A stream with counters=True takes increments only.")
