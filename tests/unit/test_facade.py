"""What the facades refuse and how they end, whatever the backend."""

import asyncio
import copy
import functools
import json

import pytest

from broker import Broker, EnqueueManyError, InvalidOption, InvalidSubject, StreamBroker, StreamOptions, Unsupported
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.codecs import JsonCodec
from broker.testing.waiting import eventually


def memory():
    return StreamBroker(MemoryBackend(MemoryHub()))


async def test_leaving_a_broker_made_by_hand_drains_like_leaving_connect():
    finished = []

    async def slow(msg):
        await asyncio.sleep(0.2)
        finished.append(msg.json())

    async with memory() as sb:
        await sb.declare(StreamOptions("S", ["s.>"]))
        await sb.consume("s.a", slow, durable="w")
        await sb.enqueue("s.a", 1)
        await eventually(lambda: sb.stats.delivered == 1)
    assert finished == [1]


async def test_leaving_with_an_error_closes_at_once():
    sb = memory()
    hold = asyncio.Event()

    async def forever(_msg):
        await hold.wait()

    async def run():
        async with sb:
            await sb.declare(StreamOptions("S", ["s.>"]))
            await sb.consume("s.a", forever, durable="w")
            await sb.enqueue("s.a", 1)
            await eventually(lambda: sb.stats.delivered == 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(run(), 5)


def test_a_broker_says_that_it_belongs_to_another_event_loop():
    async def make():
        return memory()

    async def use(sb):
        with pytest.raises(Unsupported, match="another event loop"):
            await sb.declare(StreamOptions("S", ["s.>"]))
        with pytest.raises(Unsupported):
            await sb.enqueue("s.a", 1)
        with pytest.raises(Unsupported):
            await sb.request("a", 1)
        with pytest.raises(Unsupported):
            await sb.subscribe("a", print)

    with asyncio.Runner() as one, asyncio.Runner() as other:
        sb = one.run(make())
        other.run(use(sb))
        one.run(sb.aclose())


@pytest.mark.parametrize("handler", [lambda: None, lambda _a, _b: None, "name"], ids=["none", "two", "text"])
async def test_a_handler_that_cannot_take_one_message_is_refused_at_once(handler):
    async with memory() as sb:
        await sb.declare(StreamOptions("S", ["s.>"]))
        for use in (sb.consume, sb.subscribe, sb.respond):
            with pytest.raises(InvalidOption):
                await use("s.a", handler)


async def test_a_builtin_without_a_signature_is_taken():
    async with memory() as sb:
        await sb.subscribe("a", print)


@pytest.mark.parametrize("subject", [["a"], {"a": 1}, None, 7, b"a"], ids=repr)
async def test_what_is_no_text_is_no_subject(subject):
    async with memory() as sb:
        with pytest.raises(InvalidSubject):
            sb.publish_nowait(subject, 1)
        for use in (sb.publish, sb.request, sb.enqueue):
            with pytest.raises(InvalidSubject):
                await use(subject, 1)


@pytest.mark.parametrize("subject", [{"a": 1}, None, 7, b"a", [7]], ids=repr)
async def test_what_is_neither_text_nor_a_list_of_texts_is_read_nowhere(subject):
    async with memory() as sb:
        with pytest.raises(InvalidSubject):
            sb.read(subject)


@pytest.mark.parametrize(
    "slip",
    [
        lambda sb: sb.declare("S"),
        lambda sb: sb.declare([StreamOptions("S", ["s.>"])]),
        lambda sb: sb.enqueue("s.a", 1, expect=5),
        lambda sb: sb.enqueue("s.a", 1, ttl=float("inf")),
        lambda sb: sb.enqueue_many(5),
        lambda sb: sb.consume("s.a", print, ack_wait=float("inf")),
    ],
)
async def test_an_ordinary_slip_is_a_typed_refusal(slip):
    async with memory() as sb:
        await sb.declare(StreamOptions("S", ["s.>"]))
        with pytest.raises((InvalidOption, EnqueueManyError)):
            await slip(sb)


@pytest.mark.parametrize("until", ["never", 1.5, -1, True])
async def test_reading_until_nonsense_is_refused_at_once(until):
    async with memory() as sb:
        with pytest.raises(InvalidOption):
            sb.read("s.a", until=until)


@pytest.mark.parametrize("options", [{"url": 5}, {"url": "memory://", "codec": "json"}, {"url": "kafka://x"}])
async def test_connecting_with_nonsense_is_refused(options):
    with pytest.raises(InvalidOption):
        await Broker.connect(**options)


async def test_two_tasks_reading_one_subscription_both_end():
    async with memory() as sb:
        subscription = await sb.subscribe("a")

        async def read():
            return [msg.json() async for msg in subscription]

        readers = [asyncio.create_task(read()) for _ in range(2)]
        await sb.publish("a", 1)
        await asyncio.sleep(0.05)
        await subscription.unsubscribe()
        first, second = await asyncio.wait_for(asyncio.gather(*readers), 2)
        assert first + second == [1]


async def test_ended_responders_are_forgotten():
    async with memory() as sb:
        for _ in range(20):
            await (await sb.respond("a", print)).unsubscribe()
        assert len(sb._roster.responders) <= 1


def yields(_msg):
    yield


async def yields_later(_msg):
    yield


@pytest.mark.parametrize("handler", [yields, yields_later, functools.partial(yields)])
async def test_a_generator_would_never_run(handler):
    async with memory() as sb:
        with pytest.raises(InvalidOption, match="is a generator"):
            await sb.subscribe("a", handler)
        with pytest.raises(InvalidOption, match="is a generator"):
            await sb.respond("a", handler)


@pytest.mark.parametrize("codec", [json, JsonCodec, object()])
def test_a_codec_is_looked_at_whole(codec):
    with pytest.raises(InvalidOption, match="codec"):
        Broker.connect("memory://", codec=codec)


async def test_a_thread_without_a_loop_is_told_so():
    async with memory() as sb:
        with pytest.raises(Unsupported, match="another event loop"):
            await asyncio.to_thread(sb.state, "room")


@pytest.mark.parametrize("kind", [Broker, StreamBroker])
async def test_a_url_is_no_backend(kind):
    with pytest.raises(InvalidOption, match="connect"):
        kind("memory://")


async def test_a_broker_shows_its_name_and_status():
    async with Broker.connect("memory://", name="room-42") as broker:
        assert repr(broker) == "<Broker 'room-42' connected>"
    assert repr(broker) == "<Broker 'room-42' closed>"


def test_what_is_not_connected_yet_says_so():
    connecting = Broker.connect("memory://")
    assert "not connected yet" in repr(connecting)
    with pytest.raises(AttributeError, match="not connected yet"):
        connecting.publish_nowait("a", 1)
    assert not hasattr(connecting, "__deepcopy__")
    assert type(copy.copy(connecting)) is type(connecting)
