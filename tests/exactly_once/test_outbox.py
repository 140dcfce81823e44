"""The outbox: sent if and only if the transaction is committed, in order, by any number of relays."""

import asyncio
from collections import defaultdict
from functools import partial

import pytest
import pytest_asyncio
from sqlalchemy import event, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from broker import EncodeError, InvalidKey, InvalidOption, InvalidSubject, StreamOptions
from broker.exactly_once import DatabaseContended, Inbox, KeyConflict, Outbox, hooks
from broker.exactly_once.claiming import Claiming
from broker.exactly_once.schema import OUTBOX, RELAY
from broker.testing.waiting import eventually, never
from tests.exactly_once.conftest import Ledger

BOARD = "board.points"

pytestmark = pytest.mark.timeout(60)


@pytest_asyncio.fixture
async def outbox(url):
    async with Outbox(url) as opened:
        await opened.create()
        yield opened


@pytest_asyncio.fixture
async def board(sb):
    await sb.declare(StreamOptions("BOARD", ["board.>"], storage="memory"))
    return sb


async def write(outbox, *bodies, **options):
    async with outbox.engine.begin() as tx:
        for body in bodies:
            await outbox.enqueue(tx, BOARD, body, **options)


async def stored(sb, key=lambda message: message.json()):
    async with sb.read("board.>", start="first", until="end") as messages:
        return [key(message) async for message in messages]


async def test_what_is_committed_is_sent_and_marked(board, outbox):
    async with outbox.relay(board):
        async with outbox.engine.begin() as tx:
            headers = {"Room": ["42", "43"]}
            key = await outbox.enqueue(tx, BOARD, {"points": 7}, idempotency_key="battle-1:ann", headers=headers)
            other = await outbox.enqueue(tx, BOARD, b"raw", ordering_key="ann")
        await eventually(lambda: outbox.stats.sent == 2)
        await eventually(lambda: is_empty(outbox))
    first, second = await stored(board, key=lambda message: message)
    assert (first.json(), first.idempotency_key, first.headers.get_all("Room")) == ({"points": 7}, key, ["42", "43"])
    assert (second.data, second.idempotency_key, second.ordering_key) == (b"raw", other, "ann")
    assert key == "battle-1:ann"
    async with outbox.engine.connect() as connection:
        rows = await connection.execute(text("SELECT stream, sequence FROM gamebroker_outbox ORDER BY id"))
        assert [tuple(row) for row in rows] == [("BOARD", 1), ("BOARD", 2)]


async def is_empty(outbox):
    return await outbox.waiting() == 0


async def test_what_is_rolled_back_is_never_sent(board, outbox):
    async with outbox.relay(board, poll=0.05):
        async with outbox.engine.connect() as tx:
            await outbox.enqueue(tx, BOARD, "lost")
            await tx.rollback()
        await write(outbox, "kept")
        await eventually(lambda: outbox.stats.sent == 1)
        await never(lambda: outbox.stats.sent > 1, during=0.2)
    assert await stored(board) == ["kept"]


async def test_a_local_commit_wakes_the_relay(board, outbox):
    """It would look again after a minute otherwise."""
    async with outbox.relay(board, poll=60):
        await asyncio.sleep(0.3)  # it has looked and found nothing
        for number in range(3):
            await write(outbox, number)
            await eventually(lambda number=number: outbox.stats.sent == number + 1, within=15)


async def test_what_another_process_commits_is_found_by_looking(board, url, outbox):
    async with Outbox(url) as elsewhere, outbox.relay(board, poll=0.05):
        await write(elsewhere, "from elsewhere")
        await eventually(lambda: outbox.stats.sent == 1)


async def test_a_session_of_your_own_can_be_used(board, outbox):
    async with outbox.relay(board):
        async with AsyncSession(outbox.engine) as session, session.begin():
            await outbox.enqueue(session, BOARD, "from a session")
        await eventually(lambda: outbox.stats.sent == 1)


async def test_inside_an_inbox_transaction_the_message_follows_from_the_effect(board, url, outbox):
    async with Inbox(url) as inbox:
        ledger = Ledger(inbox)
        await ledger.create()
        attempts = []

        async def settle(msg, tx):
            attempts.append(msg.attempt)
            await ledger.pay(tx, msg.json())
            await outbox.enqueue(tx, "board.next", msg.json(), idempotency_key=f"{msg.idempotency_key}:points")
            if len(attempts) == 1:
                raise RuntimeError("after the outbox was written")

        async with outbox.relay(board, poll=60):
            await board.consume(BOARD, settle, durable="w", inbox=inbox, backoff=[0.05])
            await board.enqueue(BOARD, "ann", idempotency_key="battle-1")
            await eventually(lambda: outbox.stats.sent == 1, within=15)
        assert await stored(board, key=lambda message: message.idempotency_key) == ["battle-1", "battle-1:points"]
        assert await ledger.paid() == {"ann": 1}


async def test_the_same_message_twice_is_one_and_another_under_its_key_is_refused(outbox):
    await write(outbox, "a", idempotency_key="1")
    await write(outbox, "a", idempotency_key="1")
    assert outbox.stats.repeats == 1
    async with outbox.engine.begin() as tx:
        with pytest.raises(KeyConflict, match="another message"):
            await outbox.enqueue(tx, BOARD, "b", idempotency_key="1")
        await outbox.enqueue(tx, "board.other", "b", idempotency_key="1")
    assert await outbox.waiting() == 2


@pytest.mark.parametrize(
    ("subject", "body", "options", "error"),
    [
        ("board.*", 1, {}, InvalidSubject),
        (BOARD, object(), {}, EncodeError),
        (BOARD, 1, {"idempotency_key": ""}, InvalidKey),
        (BOARD, 1, {"ordering_key": " a"}, InvalidKey),
    ],
)
async def test_what_could_never_be_sent_is_refused_at_once(outbox, subject, body, options, error):
    async with outbox.engine.begin() as tx:
        with pytest.raises(error):
            await outbox.enqueue(tx, subject, body, **options)
    with pytest.raises(InvalidOption, match="AsyncConnection"):
        await outbox.enqueue(None, BOARD, 1)
    assert await outbox.waiting() == 0


async def first_error(outbox):
    async with outbox.engine.connect() as connection:
        return (
            (await connection.execute(text("SELECT last_error FROM gamebroker_outbox ORDER BY id"))).scalars().first()
        )


async def test_what_has_no_stream_waits_and_holds_up_nobody(board, outbox):
    async with outbox.relay(board, poll=0.05):
        async with outbox.engine.begin() as tx:
            await outbox.enqueue(tx, "nowhere.a", 1)
            await outbox.enqueue(tx, BOARD, 2)
        await eventually(lambda: outbox.stats.sent == 1 and outbox.stats.failed >= 1, within=15)
        assert "NoStream" in await eventually(lambda: first_error(outbox))
        await board.declare(StreamOptions("NOWHERE", ["nowhere.>"], storage="memory"))
        await eventually(lambda: outbox.stats.sent == 2, within=15)


async def test_what_cannot_be_sent_holds_up_nobody_however_much_it_is(board, outbox, caplog):
    caplog.set_level("WARNING", "broker.exactly_once")
    async with outbox.engine.begin() as tx:
        for number in range(300):
            await outbox.enqueue(tx, "nowhere.a", number)
        await outbox.enqueue(tx, BOARD, "fine")
    async with outbox.relay(board, poll=0.05, batch=25):
        await eventually(lambda: outbox.stats.sent == 1, within=15)
    assert outbox.stats.failed >= 300
    assert " and 24 more waits: NoStream: " in caplog.text


async def test_who_does_not_answer_holds_up_nobody_however_much_it_is(stream_broker, outbox):
    """Somebody listens there and no stream answers, as one without a leader: each row would take a whole time-out."""

    async def listen(_): ...

    await stream_broker.declare(StreamOptions("BOARD", ["board.>"], storage="memory"))
    await stream_broker.subscribe("silent.>", listen)
    async with outbox.engine.begin() as tx:
        for number in range(300):
            await outbox.enqueue(tx, "silent.a", number)
        await outbox.enqueue(tx, BOARD, "fine", ordering_key="ann")
        await outbox.enqueue(tx, "silent.a", "behind", ordering_key="ann")
    async with outbox.relay(stream_broker, poll=0.05, batch=25, timeout=0.5):
        await eventually(lambda: outbox.stats.sent == 1, within=15)
        assert outbox.stats.failed <= 100
        await stream_broker.declare(StreamOptions("SILENT", ["silent.>"], storage="memory"))
        await eventually(lambda: outbox.stats.sent == 302, within=30)


async def test_new_rows_are_found_past_any_number_of_those_that_failed(tmp_path):
    async with Outbox(f"sqlite+aiosqlite:///{tmp_path / 'outbox.db'}") as outbox:
        await outbox.create()
        claiming, asked = Claiming(outbox._database, 10), []
        event.listen(outbox.engine.sync_engine, "before_cursor_execute", lambda *told: asked.append(told[2:4]))
        new, again = ("gamebroker_outbox_new", {}), ("gamebroker_outbox_again", {"again": True})
        unheard = {"unheard": ["silent.a"]}
        asking = again[1] | unheard | {"ask": ["silent.a"]}
        for index, which in (new, again, (new[0], unheard), (again[0], again[1] | unheard), (again[0], asking)):
            async with claiming.claim(**which):
                statement, values = asked[-1]
            async with outbox.engine.connect() as connection:
                rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                plan = [row[-1] for row in rows]
            assert index in plan[0]
            assert "TEMP B-TREE" not in str(plan)


async def test_a_key_waits_for_its_first_message_and_no_other_key_does(board, outbox):
    async with outbox.relay(board, poll=0.05):
        async with outbox.engine.begin() as tx:
            await outbox.enqueue(tx, "nowhere.a", "ann 1", ordering_key="ann")
            await outbox.enqueue(tx, BOARD, "ann 2", ordering_key="ann")
            await outbox.enqueue(tx, BOARD, "bob 1", ordering_key="bob")
        await eventually(lambda: outbox.stats.sent == 1, within=15)
        await never(lambda: outbox.stats.sent > 1)
        await board.declare(StreamOptions("NOWHERE", ["nowhere.>"], storage="memory"))
        await eventually(lambda: outbox.stats.sent == 3, within=15)
    assert await stored(board) == ["bob 1", "ann 2"]


async def written_by(outbox, keys, turns):
    """Transactions side by side; of each key its number is taken and its message written in the same one."""

    async def one(key):
        for _ in range(turns):
            async with outbox.engine.begin() as tx:
                if outbox.engine.dialect.name == "sqlite":
                    await tx.exec_driver_sql("BEGIN IMMEDIATE")
                taken = text("UPDATE turn SET n = n + 1 WHERE key = :key RETURNING n")
                number = (await tx.execute(taken, {"key": key})).scalar_one()
                await outbox.enqueue(tx, BOARD, [key, number], ordering_key=key)

    await asyncio.gather(*(one(key) for key in keys for _ in range(3)))


@pytest.mark.parametrize("relays", [1, 4])
async def test_many_relays_keep_each_keys_order_and_send_nothing_twice(board, url, outbox, relays):
    keys = [f"player-{n}" for n in range(8)]
    async with outbox.engine.begin() as tx:
        await tx.execute(text("CREATE TABLE turn (key TEXT PRIMARY KEY, n INTEGER NOT NULL)"))
        for key in keys:
            await tx.execute(text("INSERT INTO turn VALUES (:key, 0)"), {"key": key})
    others = [Outbox(url) for _ in range(relays - 1)]
    running = [each.relay(board, poll=0.02, batch=7) for each in (outbox, *others)]
    for relay in running:
        await relay.__aenter__()
    await written_by(outbox, keys, 5)
    await eventually(lambda: is_empty(outbox), within=40)
    for relay in running:
        await relay.__aexit__()
    for other in others:
        await other.aclose()
    orders = defaultdict(list)
    for key, number in await stored(board):
        orders[key].append(number)
    assert orders == {key: list(range(1, 16)) for key in keys}
    assert sum(each.stats.duplicates for each in (outbox, *others)) == 0
    if relays > 1 and outbox.engine.dialect.name == "sqlite":
        assert [each.stats.sent for each in others] == [0] * (relays - 1)


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.usefixtures("kind")
async def test_a_key_is_numbered_in_the_order_of_commits(outbox):
    """The second transaction waits for the first: else it could commit earlier with the higher number."""
    written = asyncio.Event()

    async def second():
        async with outbox.engine.begin() as tx:
            await outbox.enqueue(tx, BOARD, 2, ordering_key="ann")
            written.set()

    async with outbox.engine.begin() as tx:
        await outbox.enqueue(tx, BOARD, 1, ordering_key="ann")
        waiting = asyncio.create_task(second())
        await never(written.is_set)
    await waiting
    async with outbox.engine.connect() as connection:
        rows = await connection.execute(text("SELECT body FROM gamebroker_outbox ORDER BY id"))
        assert [bytes(row[0]) for row in rows] == [b"1", b"2"]


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.usefixtures("kind")
async def test_keys_taken_in_two_orders_can_stand_in_each_others_way_and_in_one_order_never(outbox):
    async def write_both(first, second, between):
        async with outbox.transaction() as tx:
            await tx.execute(text("SET LOCAL deadlock_timeout = '20ms'"))
            await outbox.enqueue(tx, BOARD, 1, ordering_key=first)
            await between()
            await outbox.enqueue(tx, BOARD, 2, ordering_key=second)

    meet = asyncio.Barrier(2).wait
    crossing = (write_both("ann", "bob", meet), write_both("bob", "ann", meet))
    outcomes = await asyncio.gather(*crossing, return_exceptions=True)
    assert {type(each) for each in outcomes} == {type(None), DatabaseContended}
    await asyncio.gather(*(write_both("ann", "bob", partial(asyncio.sleep, 0.05)) for _ in range(3)))
    assert await outbox.waiting() == 2 + 6


async def test_a_crash_between_storing_and_marking_stores_once(board, outbox, monkeypatch):
    crashed = []

    def crash(point):
        if point == "before_mark" and not crashed:
            crashed.append(point)
            raise ConnectionResetError

    monkeypatch.setattr(hooks, "_hooks", [crash])
    await write(outbox, *range(5))
    relay = outbox.relay(board)
    async with relay:
        with pytest.raises(ConnectionResetError):
            await relay.wait()
    assert await outbox.waiting() == 5
    async with outbox.relay(board, poll=0.05):
        await eventually(lambda: is_empty(outbox), within=15)
    assert await stored(board) == [0, 1, 2, 3, 4]
    assert outbox.stats.duplicates == 5


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.usefixtures("kind")
async def test_on_sqlite_another_relay_takes_over(board, url, outbox):
    async with Outbox(url) as other, outbox.engine.begin() as tx:
        await tx.execute(RELAY.insert().values(name="outbox", owner="dead", until=4e9))  # a clock gone wild, too
        await tx.execute(update(RELAY).values(until=text("strftime('%s', 'now') + 2")))
    async with Outbox(url) as other, other.relay(board, poll=0.05):
        await write(outbox, "later")
        await never(lambda: other.stats.sent, during=0.5)
        await eventually(lambda: other.stats.sent == 1, within=15)
        claiming = Claiming(outbox._database, 1)
        async with claiming.claim() as claim:
            assert claim.rows == []
    async with claiming.claim() as claim:  # the one before has left in order
        assert claim.rows == []
    assert claiming._held_until


async def test_what_was_sent_is_pruned_in_time(board, outbox):
    await write(outbox, *range(2500))
    async with outbox.relay(board):
        await eventually(lambda: is_empty(outbox), within=30)
    await write(outbox, "unsent")
    assert await outbox.prune() == 0
    assert await outbox.prune(keep=0, settled_only=True) == 0
    assert await outbox.prune(keep=0) == 2500
    assert await outbox.waiting() == 1
    assert outbox.stats.pruned == 2500


async def test_a_closed_broker_ends_its_relay(memory_stream_broker, outbox):
    await memory_stream_broker.declare(StreamOptions("BOARD", ["board.>"]))
    relay = outbox.relay(memory_stream_broker, poll=0.02)
    async with relay:
        await memory_stream_broker.drain()
        await write(outbox, "too late")
        with pytest.raises(Exception, match=r"closed|draining"):
            await relay.wait()
    assert await outbox.waiting() == 1


async def test_rows_of_a_relay_that_is_stopped_are_sent_by_the_next(board, outbox):
    await write(outbox, *range(50))
    for _ in range(5):
        async with outbox.relay(board, poll=0.01, batch=5):
            await asyncio.sleep(0.02)
    async with outbox.relay(board, poll=0.02):
        await eventually(lambda: is_empty(outbox), within=15)
    assert sorted(await stored(board)) == list(range(50))


@pytest.mark.parametrize("headers", ['{"a": 1}', "{", "7", '[["a", 1]]', '[["Nats-Rollup", "all"]]'])
@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.usefixtures("kind")
async def test_a_row_with_headers_of_no_kind_of_ours_holds_up_nobody(memory_stream_broker, outbox, headers):
    await memory_stream_broker.declare(StreamOptions("BOARD", ["board.*"]))
    row = {"subject": "board.points", "body": b"{}", "created_at": 0, "due_at": 0, "attempts": 0, "repeats": 0}
    async with outbox.transaction() as tx:
        await tx.execute(OUTBOX.insert().values(key="odd", headers=headers, **row))
        await outbox.enqueue(tx, "board.points", {}, idempotency_key="even")
    async with outbox.relay(memory_stream_broker, poll=0.05):
        await eventually(lambda: outbox.stats.sent == 1)
        await never(lambda: outbox.stats.sent > 1, during=0.1)
    async with outbox.engine.connect() as connection:
        left = await connection.execute(select(OUTBOX.c.key, OUTBOX.c.last_error).where(OUTBOX.c.sent_at.is_(None)))
        [(key, error)] = left.all()
    assert key == "odd"
    assert error
