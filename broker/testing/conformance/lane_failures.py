"""Ordered lanes when something fails: one message holds up its own key, in order, until somebody decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker import StreamOptions
from broker.lanes.parked import Parked
from broker.lanes.records import PARKED_STREAM
from broker.testing.conformance.lanes import PATIENCE, QUEUE, Ledger, enqueue_turns, keys_of_lane
from broker.testing.conformance.scene import Conformance, a_stream, idle, letters
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import StreamBroker, StreamMessage
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import Start
    from broker.lanes.parking import Waiting
    from broker.testing.conformance.scene import Connect


class LaneFailuresConformance(Conformance):
    """Promises about backoff, dead letters and takeovers in lanes."""

    @pytest.mark.timeout(60)
    async def test_a_backoff_holds_up_its_own_key_only(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=4)
        ann, bob = keys_of_lane(2, 4, 2)
        ledger = Ledger((ann, 0))
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, backoff=(1.5,))
        await enqueue_turns(sb, f"{name}.a", [ann, bob], range(5))
        await eventually(lambda: ledger.turns[bob] == list(range(5)))
        assert ledger.turns[ann] == []
        ledger.fails.clear()
        await eventually(lambda: ledger.turns[ann] == list(range(5)), within=PATIENCE)
        tries = [msg for msg in ledger.messages if msg.json() == [ann, 0]]
        assert [msg.attempt for msg in tries] == [1, 2]
        assert len({(msg.sequence, msg.timestamp, msg.subject, msg.ordering_key) for msg in tries}) == 1

    @pytest.mark.timeout(60)
    async def test_what_is_dropped_lets_its_key_go_on(self, connect: Connect) -> None:
        """At its first attempt, and at a later one, when others wait behind it already."""
        sb, ledger = await connect(), Ledger(("ann", 0), ("bob", 0))
        name = await a_stream(sb, lanes=2)

        async def handle(msg: StreamMessage) -> None:
            try:
                await ledger.handle(msg)
            except RuntimeError as exc:
                if msg.attempt == 1 and msg.ordering_key == "ann":
                    raise
                raise ValueError("no use") from exc

        await sb.consume(f"{name}.a", handle, queue=QUEUE, ordered=True, backoff=(0.3,), on_error={ValueError: "drop"})
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(4))
        await eventually(lambda: ledger.turns["ann"] == ledger.turns["bob"] == [1, 2, 3], within=PATIENCE)
        assert sb.stats.dead_lettered == 0

    @pytest.mark.timeout(60)
    async def test_sequences_grow_along_a_key_however_often_it_is_tried(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=2)
        ledger = Ledger(("ann", 1), ("ann", 3))
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(6))
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, backoff=(0.1,), max_deliver=50)
        await eventually(lambda: len([m for m in ledger.messages if m.json() == ["ann", 1]]) > 1, within=PATIENCE)
        ledger.fails.clear()
        await eventually(lambda: ledger.turns["ann"] == list(range(6)), within=PATIENCE)
        fences = [msg.sequence for msg in ledger.messages if msg.ordering_key == "ann"]
        assert fences == sorted(fences)

    @pytest.mark.timeout(60)
    async def test_a_poison_message_parks_its_key_until_it_is_replayed(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=4)
        ann, bob = keys_of_lane(1, 4, 2)
        ledger = Ledger((ann, 1))
        worker: Any = await sb.consume(
            f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, max_deliver=2, backoff=(0.05,)
        )
        await enqueue_turns(sb, f"{name}.a", [ann, bob], range(4))
        [letter] = await eventually(lambda: letters(sb), within=PATIENCE)
        await eventually(lambda: ledger.turns[bob] == list(range(4)), within=PATIENCE)
        assert (letter.consumer, letter.subject, letter.ordering_key, letter.attempts) == (QUEUE, f"{name}.a", ann, 2)
        await enqueue_turns(sb, f"{name}.a", [ann, bob], range(4, 6))
        await eventually(lambda: ledger.turns[bob] == list(range(6)), within=PATIENCE)
        assert ledger.turns[ann] == [0]
        assert worker.parked_keys == 1
        ledger.fails.clear()
        assert await sb.dead_letters.replay(letter) == 1
        await eventually(lambda: ledger.turns[ann] == list(range(6)), within=PATIENCE)
        await eventually(lambda: worker.parked_keys == 0, within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_a_letter_may_be_replayed_before_its_message_is_parked(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The letter is there a moment before its key is held up by it; whoever replays it then loses nothing."""
        sb, replayed = await connect(), list[int]()
        name = await a_stream(sb, lanes=1)
        ledger = Ledger(("ann", 0))
        park = Parked.park

        async def late(parked: Parked, delivery: Delivery, **how: Any) -> Waiting:
            if how.get("letter") is not None:
                ledger.fails.clear()
                replayed.append(await sb.dead_letters.replay(how["letter"]))
            return await park(parked, delivery, **how)

        monkeypatch.setattr(Parked, "park", late)
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, max_deliver=1)
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(3))
        await eventually(lambda: ledger.turns["ann"] == [0, 1, 2], within=PATIENCE)
        assert replayed == [1]
        assert await letters(sb) == []

    @pytest.mark.timeout(60)
    async def test_a_letter_may_be_replayed_while_what_waits_is_read(
        self, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sb, read = await connect(), Parked._read  # noqa: SLF001 - the moment in between is what this is about
        name = await a_stream(sb, lanes=1)
        ledger = Ledger(("ann", 0))
        options: Any = {"queue": QUEUE, "ordered": True, "max_deliver": 1}
        first = await sb.consume(f"{name}.a", ledger.handle, **options)
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(3))
        await eventually(lambda: idle(sb, name, f"{QUEUE}-0-0"), within=PATIENCE)
        await first.drain()
        assert len(await letters(sb)) == 1
        ledger.fails.clear()

        async def late(parked: Parked, start: Start, end: int) -> list[Waiting]:
            await sb.dead_letters.replay()
            return await read(parked, start, end)

        monkeypatch.setattr(Parked, "_read", late)
        await sb.consume(f"{name}.a", ledger.handle, **options)
        await eventually(lambda: ledger.turns["ann"] == [0, 1, 2], within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_a_key_goes_on_behind_a_discarded_message(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=4)
        ledger = Ledger(("ann", 0))
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, max_deliver=1)
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(4))
        [letter] = await eventually(lambda: letters(sb), within=PATIENCE)
        await never(lambda: ledger.turns["ann"], during=0.3)
        assert await sb.dead_letters.discard(letter, "paid by hand")
        await eventually(lambda: ledger.turns["ann"] == [1, 2, 3], within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_a_terminated_message_parks_its_key_too(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb, lanes=2)

        async def handle(msg: StreamMessage) -> None:
            seen.append(msg.json())
            if msg.json() == ["ann", 0]:
                await msg.term("no such battle")

        await sb.consume(f"{name}.a", handle, queue=QUEUE, ordered=True)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(2))
        [letter] = await eventually(lambda: letters(sb), within=PATIENCE)
        await eventually(lambda: len(seen) == 3, within=PATIENCE)
        assert letter.reason == "no such battle"
        assert sorted(seen) == [["ann", 0], ["bob", 0], ["bob", 1]]

    @pytest.mark.timeout(60)
    async def test_without_dead_letters_a_key_goes_on(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=2)
        ledger = Ledger(("ann", 0))
        await sb.consume(
            f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, max_deliver=2, backoff=(0.05,), dead_letter=False
        )
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(3))
        await eventually(lambda: ledger.turns["ann"] == [1, 2], within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_who_takes_over_knows_what_waits(self, connect: Connect) -> None:
        sb, first = await connect(), Ledger(("ann", 0), ("bob", 0))
        name = await a_stream(sb, lanes=2)
        options: dict[str, Any] = {"queue": QUEUE, "ordered": True, "max_deliver": 2, "backoff": (0.05,)}
        worker = await (await connect()).consume(f"{name}.a", first.handle, **options)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(2))
        await eventually(lambda: _so_many_letters(sb, 2), within=PATIENCE)
        await worker.drain()
        second = Ledger()
        await (await connect()).consume(f"{name}.a", second.handle, **options)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob", "eve"], range(2, 4))
        await eventually(lambda: second.turns["eve"] == [2, 3], within=PATIENCE)
        await never(lambda: second.turns["ann"] or second.turns["bob"], during=0.3)
        assert await sb.dead_letters.replay(consumer=QUEUE) == 2
        everything = list(range(4))
        await eventually(lambda: second.turns["ann"] == second.turns["bob"] == everything, within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_who_takes_over_goes_on_with_a_backoff(self, connect: Connect) -> None:
        sb, first, second = await connect(), Ledger(("ann", 0)), Ledger()
        name = await a_stream(sb, lanes=2)
        options: dict[str, Any] = {"queue": QUEUE, "ordered": True, "backoff": (1.0,)}
        worker = await (await connect()).consume(f"{name}.a", first.handle, **options)
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(3))
        await eventually(lambda: len(first.messages) == 1, within=PATIENCE)
        await worker.drain()
        await (await connect()).consume(f"{name}.a", second.handle, **options)
        await eventually(lambda: second.turns["ann"] == [0, 1, 2], within=PATIENCE)
        assert first.turns["ann"] == []

    @pytest.mark.timeout(60)
    async def test_groups_do_not_disturb_each_other(self, connect: Connect) -> None:
        sb, settlers, rankers = await connect(), Ledger(("ann", 0)), Ledger()
        name = await a_stream(sb, lanes=2)
        await sb.consume(f"{name}.a", settlers.handle, queue=QUEUE, ordered=True, backoff=(0.05,), max_deliver=3)
        await sb.consume(f"{name}.a", rankers.handle, queue="rankers", ordered=True)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(3))
        [letter] = await eventually(lambda: letters(sb), within=PATIENCE)
        await eventually(lambda: len(rankers.messages) == 6, within=PATIENCE)
        settlers.fails.clear()
        await sb.dead_letters.replay(letter)
        await eventually(lambda: settlers.turns["ann"] == [0, 1, 2], within=PATIENCE)
        await never(lambda: len(rankers.messages) > 6, during=0.2)
        assert rankers.turns == {"ann": [0, 1, 2], "bob": [0, 1, 2]}

    @pytest.mark.timeout(60)
    async def test_what_waited_in_a_former_stream_holds_up_nothing(self, connect: Connect) -> None:
        """The stream is deleted and made again: its sequences begin anew, and its keys with them."""
        sb, ledger = await connect(), Ledger(("ann", 0), ("bob", 0))
        name = await a_stream(sb, lanes=2)
        options: dict[str, Any] = {"queue": QUEUE, "ordered": True, "max_deliver": 1}
        worker = await sb.consume(f"{name}.a", ledger.handle, **options)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(2))
        await eventually(lambda: _so_many_letters(sb, 2), within=PATIENCE)
        await worker.drain()
        await sb.streams.delete(name)
        await sb.declare(StreamOptions(name, subjects=[f"{name}.>"], lanes=2))
        anew = Ledger()
        await sb.consume(f"{name}.a", anew.handle, **options)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob"], range(3))
        await eventually(lambda: anew.turns == {"ann": [0, 1, 2], "bob": [0, 1, 2]}, within=PATIENCE)
        old, gone = await letters(sb)
        assert await sb.dead_letters.discard(gone)
        assert await sb.dead_letters.replay(old) == 1
        await eventually(lambda: anew.turns[old.ordering_key or ""] == [0, 1, 2, 0], within=PATIENCE)
        await eventually(lambda: _nothing_waits(sb), within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_a_worker_notices_that_its_stream_was_made_again(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger(("ann", 0))
        name = await a_stream(sb, lanes=2)
        worker: Any = await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, max_deliver=1)
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(3))
        await eventually(lambda: _so_many_letters(sb, 1), within=PATIENCE)
        await worker.pause()
        await eventually(lambda: not worker.lanes, within=PATIENCE)
        await sb.streams.delete(name)
        await sb.declare(StreamOptions(name, subjects=[f"{name}.>"], lanes=4))
        ledger.fails.clear()
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob", "eve"], range(3))
        await worker.resume()
        await eventually(lambda: len(worker.lanes) == 4, within=PATIENCE)
        every = {key: [0, 1, 2] for key in ("ann", "bob", "eve")}
        await eventually(lambda: ledger.turns == every, within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_an_attempt_that_finds_no_room_in_the_stream_is_one(self, connect: Connect) -> None:
        """It ends as any other: with a dead letter that says why. When there is room again, everything goes on."""
        sb, ledger = await connect(), Ledger(("ann", 0))
        name = await a_stream(sb, lanes=2, max_msgs=3, discard="new")
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(3))
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, max_deliver=3, backoff=(0.05,))
        [letter] = await eventually(lambda: letters(sb), within=PATIENCE)
        assert (letter.reason, letter.error_type, letter.attempts) == ("max_deliver", "StreamFull", 3)
        assert len(ledger.messages) == 1
        ledger.fails.clear()
        roomy = StreamOptions(name, subjects=[f"{name}.>"], lanes=2, max_msgs=100, discard="new")
        await sb.declare(roomy, ensure="update")
        assert await sb.dead_letters.replay(letter) == 1
        await eventually(lambda: ledger.turns["ann"] == [0, 1, 2], within=PATIENCE)
        await eventually(lambda: _nothing_waits(sb), within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_a_message_as_large_as_its_stream_takes_is_tried_again(self, connect: Connect) -> None:
        sb, tries = await connect(), list[str]()
        name = await a_stream(sb, lanes=2, max_msg_size=760)

        async def handle(msg: StreamMessage) -> None:
            tries.append(msg.json()[0])
            if len(tries) == 1:
                raise RuntimeError("not now")

        await sb.consume(f"{name}.a", handle, queue=QUEUE, ordered=True, backoff=(0.05,))
        for turn in range(3):
            await sb.enqueue(f"{name}.a", f"{turn}" + "x" * 600, ordering_key="ann")
        await eventually(lambda: tries == ["0", "0", "1", "2"], within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_what_was_purged_while_it_waited_is_not_tried_again(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger(("ann", 0))
        name = await a_stream(sb, lanes=2)
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, backoff=(5.0,))
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(3))

        async def put_aside() -> bool:
            return (await sb.streams.info(PARKED_STREAM)).messages == 3

        await eventually(put_aside, within=PATIENCE)
        assert await sb.streams.purge(name) == 3
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(10, 12))
        await eventually(lambda: ledger.turns["ann"] == [10, 11], within=PATIENCE)
        assert (len(ledger.messages), sb.stats.terminated) == (3, 3)
        await eventually(lambda: _nothing_waits(sb), within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_what_expired_while_it_waited_is_not_tried_again(self, connect: Connect) -> None:
        sb, ledger = await connect(), Ledger(("ann", 0))
        name = await a_stream(sb, lanes=2)
        await sb.consume(f"{name}.a", ledger.handle, queue=QUEUE, ordered=True, backoff=(8.0,))
        await sb.enqueue(f"{name}.a", ["ann", 0], ordering_key="ann", ttl=5)
        await eventually(lambda: ledger.messages)
        ledger.fails.clear()
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(1, 3))
        await eventually(lambda: ledger.turns["ann"] == [1, 2], within=PATIENCE)

    @pytest.mark.timeout(60)
    async def test_a_replayed_message_is_tried_although_its_stream_was_purged(self, connect: Connect) -> None:
        sb, tries = await connect(), list[int]()
        name = await a_stream(sb, lanes=2)

        async def handle(msg: StreamMessage) -> None:
            tries.append(msg.attempt)
            if len(tries) < 4:
                raise RuntimeError("not now")

        await sb.consume(f"{name}.a", handle, queue=QUEUE, ordered=True, max_deliver=2, backoff=(0.05,))
        await sb.enqueue(f"{name}.a", 1, ordering_key="ann")
        [letter] = await eventually(lambda: letters(sb), within=PATIENCE)
        await sb.streams.purge(name)
        assert await sb.dead_letters.replay(letter) == 1
        await eventually(lambda: tries == [1, 2, 1, 2], within=PATIENCE)
        await eventually(lambda: _nothing_waits(sb), within=PATIENCE)


async def _nothing_waits(sb: StreamBroker) -> bool:
    return (await sb.streams.info(PARKED_STREAM)).messages == 0


async def _so_many_letters(sb: StreamBroker, count: int) -> bool:
    return len(await letters(sb)) == count
