"""The lists on the page about security are what a worker that only binds needs: all of it, and nothing is denied."""

import re
from contextlib import asynccontextmanager

import pytest

from broker import StreamBroker, StreamOptions
from broker.server import NatsServer
from broker.testing.waiting import eventually
from tests.deployment import TOP

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]
PAGE = (TOP / "docs" / "concepts" / "security.md").read_text(encoding="utf-8")
LISTS = dict(re.findall(r"^```text ([\w ]+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


def granted(which):
    """As a server's configuration: what the list names, for one worker."""
    text = LISTS[which]
    for name, value in (("inbox_prefix", "_INBOX_w"), ("stream", "BATTLES"), ("durable", "w")):
        text = text.replace(f"<{name}>", value)
    assert "<" not in text
    lines = [line.split(" ", 1) for line in text.splitlines()]
    allowed = {
        verb: ", ".join(f'"{subject}"' for each, subject in lines if each == verb) for verb in ("publish", "subscribe")
    }
    permissions = ", ".join(f"{verb}: {{ allow: [{subjects}] }}" for verb, subjects in allowed.items())
    return f"""accounts {{ GAME {{ jetstream: enabled, users: [
      {{ user: admin, password: p }}
      {{ user: w, password: p, permissions: {{ {permissions} }} }}
    ] }} }}"""


@asynccontextmanager
async def bound(which, options):
    """An administrator, and a worker with nothing but the list; at the end nothing was denied to it."""
    async with (
        NatsServer(config=granted(which), login={"user": "admin", "pass": "p"}) as server,
        StreamBroker.connect(server.url, user="admin", password="p") as admin,
        StreamBroker.connect(server.url, user="w", password="p", inbox_prefix="_INBOX_w") as worker,
    ):
        denied = []
        worker._backend.board.denials.watch(denied.append)
        await admin.declare(options)
        await admin.dead_letters.declare()
        yield admin, worker
        assert denied == []


async def test_a_worker_takes_settles_and_writes_dead_letters_of_any_size():
    async with bound("worker", StreamOptions("BATTLES", ["battle.*"])) as (admin, worker):
        first = await admin.consume("battle.*", print, durable="w")
        await first.drain()
        seen = []

        async def handle(msg):
            if msg.attempt < 2 or len(msg.data) > 10:
                raise ValueError("again")
            seen.append(msg.data)
            await msg.ack(confirm=True)

        working = await worker.consume(
            "battle.*", handle, durable="w", stream="BATTLES", ensure="bind", max_deliver=2, backoff=(0.02,)
        )
        for body in (b"1", b"2", b"x" * ((1 << 20) - 200), b"x" * 100):
            await admin.enqueue("battle.a", body)
        await eventually(lambda: len(seen) == 2 and worker.stats.terminated == 2, 20)
        await working.drain()
        letters = [letter async for letter in admin.dead_letters.list()]
        assert sorted(letter.complete for letter in letters) == [False, True]


async def test_an_ordered_worker_keeps_the_order_parks_and_goes_on_after_a_replay():
    async with bound("ordered worker", StreamOptions("BATTLES", ["battle.*"], lanes=2)) as (admin, worker):
        first = await admin.consume("battle.*", print, durable="w", ordered=True, ack_wait=2)
        await first.drain()
        seen, broken = [], {2}

        async def handle(msg):
            number = msg.json()
            if number in broken:
                raise ValueError("not yet")
            seen.append(number)

        working = await worker.consume(
            *("battle.*", handle),
            durable="w",
            ordered=True,
            stream="BATTLES",
            ensure="bind",
            max_deliver=2,
            backoff=(0.05,),
            ack_wait=2,
        )
        for number in range(10):
            await admin.enqueue("battle.a", number, ordering_key=f"key-{number % 2}")
        await eventually(lambda: worker.stats.dead_lettered == 1 and {1, 3, 5, 7, 9} <= set(seen), 20)
        assert [number for number in seen if number % 2] == [1, 3, 5, 7, 9]
        broken.clear()
        assert await admin.dead_letters.replay() == 1
        await eventually(lambda: len(seen) == 10, 20)
        assert [number for number in seen if not number % 2] == [0, 2, 4, 6, 8]
        await working.drain()


def test_both_lists_are_there_and_the_ordered_one_is_the_longer():
    assert set(LISTS) == {"worker", "ordered worker"}
    assert len(LISTS["worker"].splitlines()) < len(LISTS["ordered worker"].splitlines())
