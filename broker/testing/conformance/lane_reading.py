"""Reading a stream with lanes: everybody sees what was sent, under the subject it was sent to, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker import Entry, FeatureDisabled
from broker.testing.conformance.lanes import PATIENCE, QUEUE, Ledger, enqueue_turns
from broker.testing.conformance.scene import Conformance, a_stream, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker.testing.conformance.scene import Connect


class LaneReadsConformance(Conformance):
    """Promises of ``streams`` and ``enqueue_atomic`` about a stream with lanes."""

    async def test_no_batch_goes_there_and_that_is_said_at_once(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=2)
        batch = [Entry(f"{name}.a", number, ordering_key="ann") for number in range(2)]
        for others_hear_it in (False, True):
            if others_hear_it:
                await sb.subscribe(f"{name}.>", print)
            with pytest.raises(FeatureDisabled, match="ordering_key") as caught:
                await sb.enqueue_atomic(batch)
            assert (caught.value.option, caught.value.stream, caught.value.subject) == ("lanes", name, f"{name}.a")
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(2))
        assert (await sb.streams.info(name)).messages == 2

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("direct", [True, False])
    async def test_what_a_queue_tries_again_is_shown_to_no_reader(self, connect: Connect, direct: bool) -> None:  # noqa: FBT001 - a parameter of the test
        """Neither the last one, nor those from a sequence on, nor by number."""
        sb = await connect()
        name = await a_stream(sb, lanes=2, allow_direct=direct)
        ledger = Ledger(("ann", 0))
        options: dict[str, Any] = {"queue": QUEUE, "ordered": True, "backoff": (0.05,), "max_deliver": 2}
        worker = await sb.consume(f"{name}.a", ledger.handle, **options)
        await enqueue_turns(sb, f"{name}.a", ["bob", "ann"], range(1))
        await eventually(lambda: len(ledger.messages) == 3, within=PATIENCE)
        await worker.drain()
        copy = (await sb.streams.info(name)).state.last_sequence
        assert copy == 3
        assert await sb.streams.get_message(name, copy) is None
        for pattern in (">", "*.>", f"{name}.>", f"{name}.a"):
            last = await sb.streams.get_last(name, pattern)
            assert last is not None
            assert (last.sequence, last.subject, last.json()) == (2, f"{name}.a", ["ann", 0])
            many = await listed(sb.streams.get_last_many(name, [pattern]))
            assert sorted((each.sequence, each.subject) for each in many) == [(1, f"{name}.a"), (2, f"{name}.a")]
            run = await listed(sb.streams.get_many(name, subject=pattern))
            assert [(each.sequence, each.subject) for each in run] == [(1, f"{name}.a"), (2, f"{name}.a")]
        assert [each.sequence for each in await listed(sb.streams.get_many(name, start=2))] == [2]
        async with sb.read(">", stream=name, until="end") as messages:
            assert [each.sequence async for each in messages] == [1, 2]

    async def test_a_pattern_says_what_was_sent_not_how_it_is_filed(self, connect: Connect) -> None:
        """A filed subject is longer by five tokens; patterns of stars must not take them for its own."""
        sb = await connect()
        name = await a_stream(sb, lanes=2)
        await enqueue_turns(sb, f"{name}.a", ["ann"], range(1))
        for pattern in ("*.*.*.*.*.*.*", "*.lane.>", "*.*.*.>"):
            assert await sb.streams.get_last(name, pattern) is None
            assert await listed(sb.streams.get_last_many(name, [pattern])) == []
            assert await listed(sb.streams.get_many(name, subject=pattern)) == []
            assert await sb.streams.purge(name, subject=pattern) == 0
        for pattern in ("*.*", "*.>", "*.a"):
            assert await sb.streams.get_last(name, pattern) is not None
            assert len(await listed(sb.streams.get_last_many(name, [pattern]))) == 1
            assert len(await listed(sb.streams.get_many(name, subject=pattern))) == 1
        assert await sb.streams.purge(name, subject="*.a") == 1
