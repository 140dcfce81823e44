"""Contracts of event types: each grade kept, and what would break it refused at the start."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    EncodeError,
    InvalidKey,
    InvalidOption,
    MalformedEvent,
    QoS,
    QoSViolation,
    StreamOptions,
    Subscription,
    contract,
)
from broker.testing.conformance.scene import WORKER, Conformance, arrived, idle, letters, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from broker import StreamBroker, StreamMessage
    from broker.testing.conformance.scene import Connect


@contract(subject="quality.moved", qos=QoS.AT_MOST_ONCE)
@dataclass
class Moved:
    """Late, it is worthless."""

    player: str
    x: int


@contract(subject="quality.mail", qos=QoS.AT_LEAST_ONCE, key="number")
@dataclass
class Mailed:
    """Lost, somebody would complain."""

    number: int
    to: str


@contract(subject="quality.settle", qos=QoS.EXACTLY_ONCE, key="battle_id")
@dataclass
class Settled:
    """Money."""

    battle_id: str
    coins: int


@contract(subject="quality.turn", qos=QoS.AT_LEAST_ONCE, ordering_key="room")
@dataclass
class Turned:
    """In order, room by room."""

    room: str
    number: int


async def a_home(sb: StreamBroker, **options: Any) -> str:
    """A stream for what is stored."""
    await sb.declare(StreamOptions("QUALITY", ["quality.mail", "quality.settle", "quality.turn"], **options))
    return "QUALITY"


class ContractConformance(Conformance):
    """Promises of `send` and `on`."""

    async def test_at_most_once_goes_to_whoever_listens(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Moved]()
        subscription = await sb.on(Moved, seen.append)
        assert isinstance(subscription, Subscription)
        assert [await sb.send(Moved("ann", x)) for x in range(3)] == [None] * 3
        await arrived(seen, 3)
        assert seen == [Moved("ann", x) for x in range(3)]
        stats = sb.contract_stats(Moved)
        assert (stats.sent, stats.received, stats.lost, stats.loss_rate) == (3, 3, 0, 0.0)

    async def test_what_is_lost_on_the_way_is_counted_by_whoever_should_have_got_it(self, connect: Connect) -> None:
        sender, sb, seen = await connect(), await connect(), list[Moved]()

        async def slowly(event: Moved) -> None:
            await asyncio.sleep(0.005)
            seen.append(event)

        await sb.on(Moved, slowly, pending_limit=1)
        await sender.send(Moved("ann", 0))
        await arrived(seen, 1)
        for x in range(1, 200):
            await sender.send(Moved("ann", x))
        await sender.flush(timeout=10)
        stats = sb.contract_stats(Moved)
        await eventually(lambda: seen[-1].x == 199)
        assert stats.lost == 200 - len(seen) > 0
        assert stats.loss_rate == stats.lost / 200

    async def test_a_queue_group_shares_and_counts_no_loss(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Moved]()
        for _ in range(2):
            await sb.on(Moved, seen.append, queue="half")
        for x in range(40):
            await sb.send(Moved("ann", x))
        await arrived(seen, 40)
        assert sb.contract_stats(Moved).lost == 0

    async def test_at_most_once_drops_and_counts_what_is_not_the_event(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Moved]()
        await sb.on(Moved, seen.append)
        for body in (b"{", {"player": "ann"}, {"player": "ann", "x": "1"}, {"player": "ann", "x": 1}):
            await sb.publish("quality.moved", body)
        await arrived(seen, 1)
        assert seen == [Moved("ann", 1)]
        stats = sb.contract_stats(Moved)
        assert (stats.received, stats.malformed, sb.stats.handler_errors) == (4, 3, 0)

    async def test_at_most_once_on_a_subject_that_is_stored_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        await sb.declare(StreamOptions("ALL", ["quality.>"]))
        for start in (sb.check_contracts(Moved), sb.on(Moved, print)):
            with pytest.raises(QoSViolation, match="captures") as caught:
                await start
            assert (caught.value.stream, caught.value.subject) == ("ALL", "quality.moved")

    async def test_the_first_send_finds_it_out_and_the_next_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        await sb.declare(StreamOptions("ALL", ["quality.>"]))

        async def refused() -> bool:
            try:
                await sb.send(Moved("ann", 1))
            except QoSViolation:
                return True
            return False

        await eventually(refused)

    async def test_at_least_once_is_stored_and_tried_again(self, connect: Connect) -> None:
        sb, seen = await connect(), list[tuple[Mailed, int]]()
        home = await a_home(sb)

        async def deliver(event: Mailed, *, message: StreamMessage) -> None:
            seen.append((event, message.attempt))
            if message.attempt == 1:
                raise ConnectionError("the post is closed")

        receipt = await sb.send(Mailed(7, "ann"))
        assert receipt is not None
        assert (receipt.stream, receipt.duplicate) == (home, False)
        await sb.on(Mailed, deliver, durable=WORKER, backoff=[0.05])
        await eventually(lambda: idle(sb, home, WORKER))
        assert seen == [(Mailed(7, "ann"), 1), (Mailed(7, "ann"), 2)]
        stats = sb.contract_stats(Mailed)
        assert (stats.sent, stats.received, stats.redelivered, stats.retry_rate) == (1, 2, 1, 0.5)

    async def test_the_key_of_the_event_keeps_a_repeat_out(self, connect: Connect) -> None:
        sb = await connect()
        home = await a_home(sb)
        receipts = [await sb.send(Mailed(7, "ann")) for _ in range(2)]
        assert [receipt.duplicate for receipt in receipts if receipt] == [False, True]
        assert (await sb.streams.info(home)).messages == 1
        assert sb.contract_stats(Mailed).duplicates == 1
        stored = await sb.streams.get_message(home, 1)
        assert stored is not None
        assert (stored.idempotency_key, stored.decode(Mailed)) == ("7", Mailed(7, "ann"))

    @pytest.mark.parametrize("how", [{}, {"batch_size": 4, "batch_timeout": 0.2}], ids=["each", "batch"])
    async def test_what_is_not_the_event_is_a_dead_letter_at_once(self, connect: Connect, how: Any) -> None:
        sb, seen = await connect(), list[Any]()
        home = await a_home(sb)

        async def deliver(event: Any) -> None:
            seen.extend(event if isinstance(event, list) else [event])

        for body in ({"number": 1, "to": "ann"}, b"{", {"number": 2}, {"number": 3, "to": "bob"}):
            await sb.enqueue("quality.mail", body)
        await sb.on(Mailed, deliver, durable=WORKER, **how)
        await arrived(seen, 2)
        await eventually(lambda: idle(sb, home, WORKER))
        assert sorted(seen, key=lambda event: event.number) == [Mailed(1, "ann"), Mailed(3, "bob")]
        found = await letters(sb)
        assert sorted(letter.data for letter in found) == [b"{", b'{"number":2}']
        assert {letter.attempts for letter in found} == {1}
        assert all("MalformedEvent" in (letter.error_type or letter.reason) for letter in found)
        assert sb.contract_stats(Mailed).malformed == 2

    async def test_malformed_can_be_decided_otherwise(self, connect: Connect) -> None:
        sb = await connect()
        home = await a_home(sb)
        await sb.on(Mailed, print, durable=WORKER, on_error={MalformedEvent: "drop"})
        await sb.enqueue("quality.mail", b"{")
        await eventually(lambda: sb.contract_stats(Mailed).malformed)
        await eventually(lambda: idle(sb, home, WORKER))
        assert await letters(sb) == []

    async def test_events_of_one_ordering_key_are_handled_in_their_order(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Turned]()
        await a_home(sb, lanes=4)

        async def play(event: Turned) -> None:
            await asyncio.sleep(0.02 if event.number == 0 else 0)
            seen.append(event)

        await sb.on(Turned, play, durable=WORKER)
        for number in range(3):
            for room in "ab":
                await sb.send(Turned(room, number))
        await arrived(seen, 6)
        for room in "ab":
            assert [event.number for event in seen if event.room == room] == [0, 1, 2]

    @pytest.mark.parametrize("how", [{}, {"batch_size": 4, "batch_timeout": 0.2}], ids=["each", "batch"])
    async def test_exactly_once_is_applied_once_however_often_it_comes(
        self, connect: Connect, tmp_path: Path, how: Any
    ) -> None:
        from broker.exactly_once import Inbox  # noqa: PLC0415 - an extra: only this promise needs it

        sb = await connect()
        home = await a_home(sb)
        await sb.keep_journal(tmp_path / "journal")
        async with Inbox(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as inbox:
            await inbox.create()
            async with inbox.engine.begin() as connection:
                await connection.exec_driver_sql("CREATE TABLE paid (battle TEXT, coins INTEGER)")

            async def settle(event: Any, tx: Any) -> None:
                for each in event if isinstance(event, list) else [event]:
                    await tx.exec_driver_sql("INSERT INTO paid VALUES (?, ?)", (each.battle_id, each.coins))

            worker = await sb.on(Settled, settle, durable=WORKER, inbox=inbox, **how)
            for battle in ("b1", "b2"):
                assert await sb.send(Settled(battle, 10)) is not None
            await sb.enqueue("quality.settle", b"{", idempotency_key="junk")
            await eventually(lambda: idle(sb, home, WORKER))
            async with sb.read("quality.settle", until="end") as stored:
                copies = [(each.data, each.idempotency_key) async for each in stored]
            await sb.streams.purge(home)
            await worker.drain()
            await sb.streams.delete(home)  # forgets the keys, as a window that is over does
            await a_home(sb)
            await sb.on(Settled, settle, durable=WORKER, inbox=inbox, **how)
            for data, key in copies[:2]:
                await sb.enqueue("quality.settle", data, idempotency_key=key)
            await eventually(lambda: sb.contract_stats(Settled).repeats == 2)
            async with inbox.engine.connect() as connection:
                rows = (await connection.exec_driver_sql("SELECT battle, coins FROM paid ORDER BY battle")).all()
        assert [tuple(row) for row in rows] == [("b1", 10), ("b2", 10)]
        assert [letter.data for letter in await letters(sb)] == [b"{"]
        stats = sb.contract_stats(Settled)
        assert (stats.sent, stats.received, stats.repeats, stats.malformed) == (2, 5, 2, 1)
        assert stats.dedup_hit_rate == 2 / 7

    async def test_exactly_once_needs_an_inbox_or_your_word(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Settled]()
        home = await a_home(sb)
        with pytest.raises(QoSViolation, match="idempotent=True") as caught:
            await sb.on(Settled, seen.append, durable=WORKER)
        assert "applies the event twice" in caught.value.reason
        assert await listed(sb.consumers.names(home)) == []
        await sb.on(Settled, seen.append, durable=WORKER, idempotent=True)
        await sb.send(Settled("b1", 10))
        await arrived(seen, 1)

    async def test_a_subject_nobody_stores_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        for start in (
            sb.check_contracts(Mailed),
            sb.on(Mailed, print, durable=WORKER),
            sb.send(Mailed(1, "ann"), timeout=5),
        ):
            with pytest.raises(QoSViolation, match=r"no stream captures 'quality\.mail'") as caught:
                await start
            assert "declare" in caught.value.fix

    @pytest.mark.parametrize(
        ("event", "options", "told"),
        [
            (Settled, {"storage": "memory"}, "in memory"),
            (Settled, {"duplicate_window": 60}, "90 or more"),
            (Mailed, {"duplicate_window": 10}, "15 or more"),
            (Mailed, {"discard": "old", "max_msgs": 5}, "drops the oldest when"),
            (Mailed, {"max_msgs_per_subject": 1}, "max_msgs_per_subject"),
            (Turned, {}, "no lanes"),
        ],
        ids=str,
    )
    async def test_a_stream_that_would_break_the_promise_is_refused(
        self, connect: Connect, event: Any, options: Any, told: str
    ) -> None:
        sb = await connect()
        home = await a_home(sb, **options)
        with pytest.raises(QoSViolation, match=told):
            await sb.check_contracts(event)
        with pytest.raises(QoSViolation, match=told) as caught:
            await sb.on(event, print, durable=WORKER, idempotent=event is Settled)
        assert (caught.value.stream, len(caught.value.problems)) == (home, 1)
        assert await listed(sb.consumers.names(home)) == []

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"on_error": {LookupError: "drop"}}, "fails with LookupError would vanish"),
            ({"dead_letter": False}, "would vanish|vanishes"),
            ({"headers_only": True}, "no event to decode"),
        ],
        ids=str,
    )
    async def test_a_worker_that_would_lose_events_is_refused(self, connect: Connect, options: Any, told: str) -> None:
        sb = await connect()
        home = await a_home(sb)
        with pytest.raises(QoSViolation, match=told):
            await sb.on(Mailed, print, durable=WORKER, **options)
        assert await listed(sb.consumers.names(home)) == []
        await sb.on(Mailed, print, durable=WORKER, on_error={MalformedEvent: "drop", LookupError: "dead_letter"})

    async def test_messages_must_live_as_long_as_their_attempts(self, connect: Connect) -> None:
        sb = await connect()
        await a_home(sb, max_age=150)
        with pytest.raises(QoSViolation, match="max_age"):
            await sb.on(Mailed, print, durable=WORKER)
        await sb.on(Mailed, print, durable=WORKER, max_deliver=3)

    async def test_interest_without_anybody_interested_keeps_nothing(self, connect: Connect) -> None:
        sb = await connect()
        await a_home(sb, retention="interest")
        with pytest.raises(QoSViolation, match="nobody has one yet"):
            await sb.check_contracts(Mailed)
        await sb.on(Mailed, print, durable=WORKER)
        await sb.check_contracts(Mailed)

    async def test_every_problem_is_told_at_once(self, connect: Connect) -> None:
        sb = await connect()
        await a_home(sb, storage="memory", duplicate_window=1)
        with pytest.raises(QoSViolation) as caught:
            await sb.on(Settled, print, dead_letter=False)
        assert len(caught.value.problems) == 5
        assert all(problem.reason and problem.fix in str(caught.value) for problem in caught.value.problems)

    async def test_nothing_is_sent_that_nobody_could_read(self, connect: Connect) -> None:
        sb = await connect()
        home = await a_home(sb)
        with pytest.raises(EncodeError, match="read back"):
            await sb.send(Mailed(7, to=None))  # type: ignore[arg-type]  # the case
        with pytest.raises(InvalidKey):
            await sb.send(Settled("", 1))
        assert (await sb.streams.info(home)).messages == 0

    async def test_what_has_no_contract_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption, match="no contract"):
            await sb.send({"player": "ann"})
        with pytest.raises(InvalidOption, match="no contract"):
            await sb.on(dict, print)

    @pytest.mark.parametrize(
        ("event", "options", "option"),
        [
            (Moved, {"durable": WORKER}, "durable"),
            (Moved, {"idempotent": True}, "idempotent"),
            (Mailed, {"durable": WORKER, "overflow": "latest"}, "overflow"),
            (Mailed, {"durable": WORKER, "quota": 1}, "quota"),
            (Mailed, {"durable": WORKER, "idempotent": 1}, "idempotent"),
            (Mailed, {"durable": WORKER, "batch_size": 2}, "handler"),
        ],
        ids=str,
    )
    async def test_an_option_of_another_grade_is_refused(
        self, connect: Connect, event: Any, options: Any, option: str
    ) -> None:
        sb = await connect()
        await a_home(sb)
        with pytest.raises(InvalidOption) as caught:
            await sb.on(event, lambda _: None, **options)
        assert caught.value.option == option
