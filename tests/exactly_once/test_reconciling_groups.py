"""Reconciling for groups whose messages are not all where their stream has them."""

import pytest

from broker import StreamOptions
from broker.exactly_once import Outbox, Reconciled, reconcile
from broker.testing.waiting import eventually, never
from tests.exactly_once.test_inbox import SETTLE, WORKER, past_the_window
from tests.exactly_once.test_reconciling import look, nothing_waits

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def kind():
    return "sqlite"


async def test_an_ordered_group_leaves_alone_what_it_does_not_take(sb, inbox, ledger):
    """It has a consumer for each lane, and none of its name; others take the other subject, and the stream forgets."""
    await sb.declare(StreamOptions("MOVES", ["move.>"], duplicate_window=0.1, storage="memory", lanes=2))
    theirs = []
    await sb.consume("move.theirs", lambda msg: theirs.append(msg.json()), queue="others", ordered=True)

    async def apply(_, tx):
        await ledger.pay(tx, "ann")

    await sb.consume("move.ours", apply, queue="movers", ordered=True, inbox=inbox)
    outbox = Outbox(inbox.engine)
    async with outbox.relay(sb, poll=0.05):
        async with outbox.transaction() as tx:
            for subject in ("move.ours", "move.theirs"):
                await outbox.enqueue(tx, subject, subject, idempotency_key=subject, ordering_key="k")
        await eventually(lambda: inbox.stats.applied == 1 and theirs)
        await eventually(lambda: nothing_waits(outbox))
        await past_the_window()
        await sb.streams.purge("MOVES")  # as max_age does in time
        told = await reconcile(outbox, inbox, sb, stream="MOVES", consumer="movers", older_than=0.11)
        assert told == Reconciled(settled=1)
        await never(lambda: len(theirs) > 1, during=0.4)


@pytest.mark.parametrize("ordered", [False, True], ids=["far attempt", "parked"])
async def test_what_waits_for_its_next_attempt_elsewhere_is_not_lost(sb, inbox, ordered):
    """It was settled in its stream, and is neither applied nor dead."""
    lanes = {"lanes": 2} if ordered else {}
    await sb.declare(
        StreamOptions("BATTLES", ["battle.>"], duplicate_window=0.1, storage="memory", retention="workqueue", **lanes)
    )
    failed = []

    async def pay(msg, _):
        failed.append(msg)
        raise ConnectionError

    options = {"queue": WORKER, "ordered": True} if ordered else {"durable": WORKER, "reschedule_after": 0.5}
    await sb.consume(SETTLE, pay, inbox=inbox, backoff=(60.0,), **options)
    outbox = Outbox(inbox.engine)
    async with outbox.relay(sb, poll=0.05):
        async with outbox.transaction() as tx:
            await outbox.enqueue(tx, SETTLE, 1, idempotency_key="battle-1", ordering_key="k" if ordered else None)
        await eventually(lambda: failed)
        await eventually(lambda: gone(sb))
        await eventually(lambda: nothing_waits(outbox))
        await past_the_window()
        assert await look(outbox, inbox, sb) == Reconciled(waiting=1)


async def gone(sb):
    return not (await sb.streams.info("BATTLES")).state.messages
