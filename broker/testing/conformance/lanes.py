"""Ordered lanes: one key's messages in their order, whoever works and whatever fails; keys side by side."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    ConfigDrift,
    Entry,
    InvalidOption,
    OrderedConsumption,
    StreamOptions,
)
from broker.contracts.lanes import lane_of
from broker.testing.conformance.scene import Conformance, Gate, a_stream, bodies, fresh, listed
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import StreamBroker, StreamMessage
    from broker.testing.conformance.scene import Connect

QUEUE = "settlers"
PATIENCE = 30.0
"""Seconds: a busy machine takes its time to share lanes anew."""


def keys_of_lane(lane: int, lanes: int, count: int) -> list[str]:
    """Different keys of the same lane."""
    found = (key for number in range(10_000) if lane_of(key := f"player-{number}", lanes) == lane)
    return [next(found) for _ in range(count)]


async def enqueue_turns(sb: StreamBroker, subject: str, keys: list[str], turns: range) -> None:
    """Every key's next message, turn by turn; the body says which."""
    entries = [Entry(subject, [key, turn], ordering_key=key) for turn in turns for key in keys]
    await sb.enqueue_many(entries)


class Ledger:
    """A handler that notes which turn each key has had, and fails where it is told to."""

    def __init__(self, *fails: tuple[str, int]) -> None:
        self.turns = defaultdict[str, list[int]](list)
        self.messages: list[StreamMessage] = []
        self.fails = set(fails)

    async def handle(self, msg: StreamMessage) -> None:
        """The handler."""
        key, turn = msg.json()
        await asyncio.sleep(0.001)
        self.messages.append(msg)
        if (key, turn) in self.fails:
            raise RuntimeError("not now")
        self.turns[key].append(turn)


class LanesConformance(Conformance):
    """Promises of ``StreamOptions(lanes=)``, ``ordering_key`` and ``consume(ordered=True)``."""

    async def test_a_stream_remembers_its_lanes(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(name, subjects=[f"{name}.>"], lanes=4, metadata={"team": "economy"})
        await sb.declare(options)
        await sb.declare(options)
        info = await sb.streams.info(name)
        assert (info.config, info.lane_counts) == (options, (4,))
        with pytest.raises(ConfigDrift) as caught:
            await sb.declare(StreamOptions(name, subjects=[f"{name}.>"], lanes=6, metadata={"team": "economy"}))
        assert caught.value.differences == {"lanes": (6, 4)}

    async def test_only_the_number_of_lanes_can_be_changed(self, connect: Connect) -> None:
        sb = await connect()
        plain, laned = await a_stream(sb), await a_stream(sb, lanes=4)
        with pytest.raises(ConfigDrift, match="lanes"):
            await sb.declare(StreamOptions(plain, subjects=[f"{plain}.>"], lanes=4), ensure="update")
        with pytest.raises(ConfigDrift, match="lanes"):
            await sb.declare(StreamOptions(laned, subjects=[f"{laned}.>"]), ensure="update")
        await sb.declare(StreamOptions(laned, subjects=[f"{laned}.>"], lanes=6), ensure="update")
        assert (await sb.streams.info(laned)).lane_counts == (4, 6)

    async def test_stored_messages_look_as_they_were_sent(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=4)
        keys = ["ann", "b.o.b", "Zoë", "a b", "50%", "~tilde", "*", ">", "x" * 255, "日本"]
        for number, key in enumerate(keys):
            receipt = await sb.enqueue(f"{name}.a", number, ordering_key=key, headers={"room": "7"})
            assert receipt == (name, number + 1, False)
        await sb.enqueue(f"{name}.b", 10)
        async with sb.read(f"{name}.*", until="end") as messages:
            seen = [each async for each in messages]
        assert bodies(seen) == list(range(11))
        assert [each.ordering_key for each in seen] == [*keys, None]
        assert [each.subject for each in seen] == [f"{name}.a"] * 10 + [f"{name}.b"]
        assert dict(seen[0].headers) == {"room": "7"}
        last = await sb.streams.get_last(name, f"{name}.a")
        assert last is not None
        assert last.json() == 9
        assert last.subject == f"{name}.a"
        assert await sb.streams.purge(name, subject=f"{name}.a") == 10

    async def test_a_repeat_is_dropped_whatever_its_lane(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=4)
        first = await sb.enqueue(f"{name}.a", 1, ordering_key="ann", idempotency_key="battle-42")
        again = await sb.enqueue(f"{name}.a", 1, ordering_key="ann", idempotency_key="battle-42")
        assert (first.duplicate, again.duplicate, again.sequence) == (False, True, first.sequence)

    async def test_others_read_and_consume_it_without_order(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb, lanes=4)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(10))
        await sb.consume(f"{name}.a", seen.append, durable="audit")
        await eventually(lambda: len(seen) == 20)
        assert {each.subject for each in seen} == {f"{name}.a"}

    @pytest.mark.timeout(60)
    async def test_every_key_keeps_its_order_over_two_workers(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger()
        name = await a_stream(sb, lanes=4)
        keys = [f"player-{number}" for number in range(12)]
        await enqueue_turns(sb, f"{name}.a", keys, range(10))
        for _ in range(2):
            await (await connect()).consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True)
        await enqueue_turns(sb, f"{name}.a", keys, range(10, 20))
        await eventually(lambda: len(ledger.messages) == 240, within=PATIENCE)
        assert ledger.turns == {key: list(range(20)) for key in keys}
        await never(lambda: len(ledger.messages) > 240, during=0.2)

    async def test_keys_run_side_by_side_and_one_key_never_does(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb, lanes=4)
        keys = [keys_of_lane(lane, 4, 1)[0] for lane in range(4)]
        await enqueue_turns(sb, f"{name}.a", keys, range(3))
        await sb.consume(f"{name}.a", gate.handle, queue=QUEUE, ordered=True)
        await eventually(lambda: gate.running == 4)
        await never(lambda: gate.running > 4, during=0.2)
        assert sorted(bodies(gate.started)) == sorted([key, 0] for key in keys)
        gate.open()
        await eventually(lambda: len(gate.finished) == 12)

    async def test_concurrency_bounds_the_handlers_of_a_worker(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb, lanes=4)
        await enqueue_turns(sb, f"{name}.a", [keys_of_lane(lane, 4, 1)[0] for lane in range(4)], range(2))
        await sb.consume(f"{name}.a", gate.handle, queue=QUEUE, ordered=True, concurrency=2)
        await eventually(lambda: gate.running == 2)
        await never(lambda: gate.running > 2, during=0.2)
        gate.open()
        await eventually(lambda: len(gate.finished) == 8)

    @pytest.mark.timeout(60)
    async def test_lanes_are_shared_evenly_as_workers_come_and_go(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger()
        name = await a_stream(sb, lanes=8)
        workers = list[Any]()

        async def shared(*shares: int) -> None:
            def held() -> bool:
                lanes = sorted(lane for worker in workers for lane in worker.lanes)
                return lanes == list(range(8)) and sorted(len(worker.lanes) for worker in workers) == list(shares)

            await eventually(held, within=PATIENCE)

        for shares in ([8], [4, 4], [2, 3, 3]):
            workers.append(await (await connect()).consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True))
            await shared(*shares)
        assert all(isinstance(worker, OrderedConsumption) for worker in workers)
        await workers.pop().drain()
        await shared(4, 4)
        await enqueue_turns(sb, f"{name}.a", [f"player-{number}" for number in range(20)], range(3))
        await eventually(lambda: len(ledger.messages) == 60, within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_a_worker_that_pauses_leaves_its_lanes_to_the_others(self, connect: Connect) -> None:
        sb, resting, busy = await connect(), Ledger(), Ledger()
        name = await a_stream(sb, lanes=4)
        first = await sb.consume(f"{name}.a", resting.handle, queue=QUEUE, ordered=True)
        second: Any = await (await connect()).consume(f"{name}.a", busy.handle, queue=QUEUE, ordered=True)
        await first.pause()
        await eventually(lambda: len(second.lanes) == 4, within=PATIENCE)
        await enqueue_turns(sb, f"{name}.a", [f"player-{number}" for number in range(10)], range(2))
        await eventually(lambda: len(busy.messages) == 20, within=PATIENCE)
        assert resting.messages == []
        await first.resume()
        await eventually(lambda: len(second.lanes) == 2, within=PATIENCE)

    @pytest.mark.timeout(90)
    async def test_another_number_of_lanes_drains_the_old_ones_first(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger()
        name = await a_stream(sb, lanes=3)
        keys = [f"player-{number}" for number in range(10)]
        await enqueue_turns(sb, f"{name}.a", keys, range(10))
        worker: Any = await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True)
        await sb.declare(StreamOptions(name, subjects=[f"{name}.>"], lanes=5), ensure="update")
        await enqueue_turns(sb, f"{name}.a", keys, range(10, 20))
        await eventually(lambda: len(ledger.messages) == 200, within=PATIENCE)
        assert ledger.turns == {key: list(range(20)) for key in keys}
        assert len(worker.lanes) == 5
        late = Ledger()
        await sb.consume(f"{name}.a", late.handle, queue="latecomers", ordered=True)
        await eventually(lambda: len(late.messages) == 200, within=PATIENCE)
        assert late.turns == ledger.turns

    @pytest.mark.timeout(60)
    async def test_a_work_queue_has_lanes_too(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger(("ann", 1))
        name = await a_stream(sb, lanes=3, retention="workqueue")
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, backoff=(0.3,))
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(4))
        await eventually(lambda: ledger.turns["bob"] == list(range(4)), within=PATIENCE)
        ledger.fails.clear()
        await eventually(lambda: ledger.turns["ann"] == list(range(4)), within=PATIENCE)

        async def empty() -> bool:
            return (await sb.streams.info(name)).messages == 0

        await eventually(empty, within=PATIENCE)

    async def test_messages_without_a_key_are_handled_as_well(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb, lanes=4)
        await sb.enqueue_many(Entry(f"{name}.a", number) for number in range(20))
        await sb.consume(f"{name}.a", seen.append, queue=QUEUE, ordered=True)
        await eventually(lambda: len(seen) == 20)
        assert {each.ordering_key for each in seen} == {None}

    async def test_draining_finishes_what_runs_and_leaves_the_rest(self, connect: Connect) -> None:
        sb, gate, rest = await connect(), Gate(), Ledger()
        name = await a_stream(sb, lanes=2)
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(4))
        worker = await sb.consume(f"{name}.a", gate.handle, queue=QUEUE, ordered=True)
        await eventually(lambda: gate.running == 1)
        draining = asyncio.create_task(worker.drain())
        await asyncio.sleep(0.1)
        gate.open()
        await draining
        await worker.wait()
        done = bodies(gate.finished)
        await sb.consume(f"{name}.a", rest.handle, queue=QUEUE, ordered=True)
        await eventually(lambda: [turn for _, turn in done] + rest.turns["ann"] == [0, 1, 2, 3], within=PATIENCE)
        assert {msg.attempt for msg in rest.messages} == {1}

    async def test_what_cannot_be_ordered_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        plain, laned = await a_stream(sb), await a_stream(sb, lanes=2)
        for subject, queue, option in ((f"{plain}.a", QUEUE, "ordered"), (f"{laned}.a", None, "queue")):
            with pytest.raises(InvalidOption) as caught:
                await sb.consume(subject, print, ordered=True, queue=queue)
            assert caught.value.option == option
        with pytest.raises(InvalidOption) as caught:
            StreamOptions("S", ["s"], lanes=2, retention="interest")
        assert caught.value.option == "lanes"

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 10},
            {"rate": 10.0},
            {"byte_rate": 1e6},
            {"max_bytes": 1000},
            {"headers_only": True},
            {"on_error": {ValueError: "pause"}},
            {"priority_group": "jobs"},
        ],
        ids=str,
    )
    async def test_what_is_said_about_one_flow_contradicts_lanes(
        self, connect: Connect, options: dict[str, Any]
    ) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=2)
        with pytest.raises(InvalidOption) as caught:
            await sb.consume(f"{name}.a", print, queue=QUEUE, ordered=True, **options)
        assert caught.value.option in options

    async def test_its_streams_are_found_by_subject(self, connect: Connect) -> None:
        sb = await connect()
        laned, plain = await a_stream(sb, lanes=2), await a_stream(sb)
        assert await listed(sb.streams.names(f"{laned}.a")) == [laned]
        assert [info.name for info in await listed(sb.streams.list(f"{laned}.a"))] == [laned]
        every = await listed(sb.streams.names(">"))
        assert (every.count(laned), every.count(plain)) == (1, 1)
        assert await sb.streams.find(f"{laned}.a") == laned

    async def test_the_last_of_many_subjects_is_the_last_of_each_key(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=2)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(3))
        last = await listed(sb.streams.get_last_many(name, [f"{name}.*"]))
        assert [(each.subject, each.json()) for each in last] == [(f"{name}.a", ["ann", 2]), (f"{name}.a", ["bob", 2])]
        assert await sb.streams.get_last(name, f"{name}.b") is None

    async def test_what_happens_to_its_lanes_is_told(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger()
        name = await a_stream(sb, lanes=2)
        worker = await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True)
        events, told = worker.events(), list[tuple[str, str]]()

        async def until(*wanted: tuple[str, str]) -> None:
            async with asyncio.timeout(15):
                while not set(wanted) <= set(told):
                    event = await anext(events)
                    told.append((event.kind, event.consumer))

        await sb.consumers.delete(name, f"{QUEUE}-0-1")
        await until(("consumer_deleted", f"{QUEUE}-0-1"), ("consumer_recreated", f"{QUEUE}-0-1"))
        await worker.pause()
        await worker.resume()
        await until(("paused", QUEUE), ("resumed", QUEUE))
        await worker.drain()
        async with asyncio.timeout(15):
            await listed(events)

    async def test_a_deleted_lane_is_made_again(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger()
        name = await a_stream(sb, lanes=2)
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob", "eve"], range(3))
        await eventually(lambda: len(ledger.messages) == 9)
        for consumer in await listed(sb.consumers.names(name)):
            await sb.consumers.delete(name, consumer)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob", "eve"], range(3, 6))
        await eventually(lambda: all(turns[-1] == 5 for turns in ledger.turns.values()), within=PATIENCE)
        for turns in ledger.turns.values():
            assert sorted(set(turns)) == list(range(6))

    @pytest.mark.timeout(60)
    async def test_a_lane_made_again_goes_on_behind_what_was_settled_here(self, connect: Connect) -> None:
        """Nobody has to have asked the server lately how far the lane was."""
        sb, ledger = await connect(), Ledger()
        name = await a_stream(sb, lanes=1)
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(1500))
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True)
        await eventually(lambda: len(ledger.messages) > 100, within=PATIENCE)
        await sb.consumers.delete(name, f"{QUEUE}-0-0")
        await eventually(lambda: ledger.turns["ann"][-1] == 1499, within=PATIENCE)
        assert ledger.turns["ann"] == list(range(1500))

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("leave", ["drain", "pause"])
    async def test_who_leaves_is_not_counted_any_more(self, connect: Connect, leave: str) -> None:
        """Also when it was about to come back, however far it was with that."""
        sb, ledger = await connect(), Ledger()
        name = await a_stream(sb, lanes=4)
        stays: Any = await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True)
        for turns in (1, 2, 4, 8, 32):
            leaves = await (await connect()).consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True)
            await leaves.pause()
            resuming = asyncio.create_task(leaves.resume())
            for _ in range(turns):
                await asyncio.sleep(0)
            await (leaves.drain() if leave == "drain" else leaves.pause())
            await resuming
            if leave == "drain":
                await leaves.pause()
                await leaves.resume()
        await eventually(lambda: len(stays.lanes) == 4, within=PATIENCE)
        await never(lambda: len(stays.lanes) < 4, during=1.5)

    @pytest.mark.timeout(60)
    async def test_who_pauses_keeps_no_lane_that_was_just_being_taken(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger()
        name = await a_stream(sb, lanes=16)
        worker: Any = await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True)
        for moment in range(10):
            await worker.pause()
            await asyncio.sleep(0.2)  # what was being opened is open by now
            await eventually(lambda: not worker.lanes)
            await worker.resume()
            await asyncio.sleep(moment * 0.003)
        await worker.pause()
        await eventually(lambda: not worker.lanes, within=PATIENCE)
        await enqueue_turns(sb, f"{name}.a", [f"player-{number}" for number in range(32)], range(1))
        await never(lambda: ledger.messages, during=0.3)
        await worker.resume()
        await eventually(lambda: len(ledger.messages) == 32, within=PATIENCE)

    @pytest.mark.parametrize("whole", [False, True], ids=["consumption", "broker"])
    async def test_handlers_of_lanes_that_drain_at_once_do_not_wait_for_each_other(
        self, connect: Connect, *, whole: bool
    ) -> None:
        sb, running, returned = await connect(), asyncio.Barrier(2), list[int]()
        name = await a_stream(sb, lanes=2)

        async def handle(msg: StreamMessage) -> None:
            await running.wait()
            await (sb if whole else worker).drain(timeout=60)
            returned.append(msg.json())

        worker = await sb.consume(f"{name}.a", handle, queue=QUEUE, ordered=True)
        for lane in range(2):
            await sb.enqueue(f"{name}.a", lane, ordering_key=keys_of_lane(lane, 2, 1)[0])
        await eventually(lambda: sorted(returned) == [0, 1], within=10)
