"""``consume(ordered=True, inbox=...)``: in order, and once."""

import asyncio

import pytest
import pytest_asyncio
from sqlalchemy import text

from broker import StreamOptions
from broker.exactly_once import Inbox
from broker.testing.waiting import eventually, never
from tests.exactly_once.test_inbox import letters, past_the_window

MOVES = StreamOptions("MOVES", ["move.>"], duplicate_window=0.1, storage="memory", lanes=4)

pytestmark = pytest.mark.timeout(60)


@pytest_asyncio.fixture
async def moves(sb):
    await sb.declare(MOVES)
    return sb


async def move(sb, player, turn, key=None):
    await sb.enqueue(f"move.{player}", turn, idempotency_key=key or f"{player}-{turn}", ordering_key=player)


def mover(ledger):
    async def apply(msg, tx):
        await ledger.pay(tx, msg.subject, msg.json())

    return apply


async def applied(inbox):
    """(player, turn) in the order committed."""
    async with inbox.engine.connect() as connection:
        rows = await connection.execute(text("SELECT player, amount FROM paid"))
        return [tuple(row) for row in rows]


async def test_order_and_effect_hold_through_failures_and_repeats(moves, url, inbox, ledger):
    failing = {("move.ann", 2), ("move.bob", 1)}

    async def apply(msg, tx):
        await ledger.pay(tx, msg.subject, msg.json())
        if (msg.subject, msg.json()) in failing:
            failing.discard((msg.subject, msg.json()))
            raise RuntimeError("not now")

    async with Inbox(url) as other:
        for mine in (inbox, other):
            options = {"queue": "movers", "ordered": True, "backoff": [0.05]}
            await moves.consume("move.>", apply, inbox=mine, **options)
        for _ in range(2):
            for turn in range(6):
                for player in ("ann", "bob", "cyd"):
                    await move(moves, player, turn)
            await past_the_window()
        await eventually(lambda: inbox.stats.applied + other.stats.applied == 18, within=20)
        await eventually(lambda: inbox.stats.duplicates + other.stats.duplicates == 18, within=20)
    done = await applied(inbox)
    for player in ("move.ann", "move.bob", "move.cyd"):
        assert [turn for name, turn in done if name == player] == list(range(6))


async def test_a_conflict_holds_up_its_ordering_key_until_somebody_decides(moves, inbox, ledger):
    await moves.consume("move.>", mover(ledger), queue="movers", ordered=True, inbox=inbox)
    await move(moves, "ann", 1, key="one")
    await past_the_window()
    await move(moves, "ann", 2, key="one")
    await move(moves, "ann", 3)
    await move(moves, "bob", 1)
    (letter,) = await eventually(lambda: letters(moves), within=15)
    assert (letter.reason, letter.data) == ("conflict", b"2")
    await eventually(lambda: inbox.stats.applied == 2, within=15)
    await never(lambda: inbox.stats.applied > 2)
    await moves.dead_letters.discard(letter)
    await eventually(lambda: inbox.stats.applied == 3, within=15)
    assert [turn for name, turn in await applied(inbox) if name == "move.ann"] == [1, 3]


async def test_without_keys_every_message_is_its_own(moves, inbox, ledger):
    tries = []

    async def apply(msg, tx):
        tries.append(msg.sequence)
        await ledger.pay(tx, msg.subject, msg.json())
        if len(tries) == 1:
            raise RuntimeError("not now")

    await moves.consume("move.>", apply, queue="movers", ordered=True, inbox=inbox, backoff=[0.05])
    for _ in range(3):
        await moves.enqueue("move.ann", 1, ordering_key="ann")
    await eventually(lambda: inbox.stats.applied == 3, within=15)
    await asyncio.sleep(0.1)
    assert await applied(inbox) == [("move.ann", 1)] * 3
