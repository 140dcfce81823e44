"""Runs of stored messages: from a sequence on, whatever is missing in between, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker import Entry, InvalidOption, InvalidSubject, StreamNotFound, Unsupported
from broker.testing.conformance.lanes import enqueue_turns
from broker.testing.conformance.scene import Conformance, a_stream, bodies, listed

if TYPE_CHECKING:
    from broker import StreamBroker
    from broker.testing.conformance.scene import Connect


async def numbered(sb: StreamBroker, name: str, count: int) -> None:
    """Messages 0, 1, ... in turn on the subjects ``a`` and ``b``."""
    await sb.enqueue_many(Entry(f"{name}.{'ab'[number % 2]}", number) for number in range(count))


class RunConformance(Conformance):
    """Promises of ``streams.get_many``."""

    @pytest.mark.parametrize("direct", [True, False])
    async def test_what_follows_a_sequence_comes_in_order(self, connect: Connect, direct: bool) -> None:  # noqa: FBT001 - a parameter of the test
        sb = await connect()
        name = await a_stream(sb, allow_direct=direct)
        assert await listed(sb.streams.get_many(name)) == []
        await numbered(sb, name, 10)
        run = await listed(sb.streams.get_many(name))
        assert [(each.sequence, each.subject, each.json()) for each in run] == [
            (number + 1, f"{name}.{'ab'[number % 2]}", number) for number in range(10)
        ]
        assert bodies(await listed(sb.streams.get_many(name, start=8))) == [7, 8, 9]
        assert bodies(await listed(sb.streams.get_many(name, start=2, limit=3))) == [1, 2, 3]
        assert bodies(await listed(sb.streams.get_many(name, start=3, limit=2, subject=f"{name}.b"))) == [3, 5]
        assert bodies(await listed(sb.streams.get_many(name, subject=f"{name}.*", start=10))) == [9]
        assert await listed(sb.streams.get_many(name, start=11)) == []
        assert await listed(sb.streams.get_many(name, subject=f"{name}.c")) == []

    @pytest.mark.parametrize("direct", [True, False])
    async def test_what_is_gone_is_skipped(self, connect: Connect, direct: bool) -> None:  # noqa: FBT001 - a parameter of the test
        sb = await connect()
        name = await a_stream(sb, allow_direct=direct)
        await numbered(sb, name, 12)
        for sequence in (1, 2, 5, 6, 7, 12):
            await sb.streams.delete_message(name, sequence)
        assert [each.sequence for each in await listed(sb.streams.get_many(name))] == [3, 4, 8, 9, 10, 11]
        assert [each.sequence for each in await listed(sb.streams.get_many(name, start=5, limit=2))] == [8, 9]
        assert [each.sequence for each in await listed(sb.streams.get_many(name, subject=f"{name}.a"))] == [3, 9, 11]
        assert await listed(sb.streams.get_many(name, start=12)) == []

    async def test_a_long_run_comes_page_by_page(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await numbered(sb, name, 1500)
        for sequence in range(200, 900, 7):
            await sb.streams.delete_message(name, sequence)
        there = [number for number in range(1500) if number + 1 not in range(200, 900, 7)]
        assert bodies(await listed(sb.streams.get_many(name, limit=10_000))) == there
        assert bodies(await listed(sb.streams.get_many(name, limit=700))) == there[:700]
        odd = [number for number in there if number % 2]
        assert bodies(await listed(sb.streams.get_many(name, limit=10_000, subject=f"{name}.b"))) == odd

    @pytest.mark.parametrize("direct", [True, False])
    async def test_it_ends_before_the_bytes_are_too_many(self, connect: Connect, direct: bool) -> None:  # noqa: FBT001 - a parameter of the test
        sb = await connect()
        name = await a_stream(sb, allow_direct=direct)
        for size in (100, 100, 100, 500, 0):
            await sb.enqueue(f"{name}.a", b"x" * size)
        for most, expected in ((99, [1]), (100, [1]), (299, [1, 2]), (300, [1, 2, 3]), (800, [1, 2, 3, 4]), (801, 5)):
            run = [each.sequence for each in await listed(sb.streams.get_many(name, max_bytes=most))]
            assert run == (expected if isinstance(expected, list) else list(range(1, expected + 1)))
        assert [each.sequence for each in await listed(sb.streams.get_many(name, start=4, max_bytes=1))] == [4]

    async def test_bytes_are_counted_over_all_pages(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", b"x" * 1000) for _ in range(600))
        assert len(await listed(sb.streams.get_many(name, limit=1000, max_bytes=555_555))) == 555

    async def test_with_lanes_it_is_what_was_sent(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, lanes=3)
        await enqueue_turns(sb, f"{name}.a", ["ann", "bob", "eve"], range(3))
        await enqueue_turns(sb, f"{name}.b", ["ann"], range(1))
        everything = [[key, turn] for turn in range(3) for key in ("ann", "bob", "eve")]
        assert bodies(await listed(sb.streams.get_many(name))) == [*everything, ["ann", 0]]
        run = await listed(sb.streams.get_many(name, start=2, limit=4, subject=f"{name}.a"))
        assert bodies(run) == everything[1:5]
        assert {each.subject for each in run} == {f"{name}.a"}
        assert [each.ordering_key for each in run] == ["bob", "eve", "ann", "bob"]
        assert bodies(await listed(sb.streams.get_many(name, subject=f"{name}.b"))) == [["ann", 0]]

    async def test_nothing_of_it_is_on_loan(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", {"n": 1}, headers={"Kind": "x"}, idempotency_key="k")
        (message,) = await listed(sb.streams.get_many(name))
        assert (message.stream, message.idempotency_key, dict(message.headers)["Kind"]) == (name, "k", "x")
        with pytest.raises(Unsupported, match="on loan"):
            await message.ack()

    async def test_it_can_be_left_half_way(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await numbered(sb, name, 600)
        async for message in sb.streams.get_many(name, limit=600):
            if message.sequence == 300:
                break
        assert len(await listed(sb.streams.get_many(name, limit=600))) == 600

    async def test_what_cannot_be_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        given: dict[str, Any]
        for given in ({"start": 0}, {"limit": 0}, {"max_bytes": 0}, {"start": 1.5}, {"limit": True}, {"limit": None}):
            with pytest.raises(InvalidOption) as caught:
                await listed(sb.streams.get_many(name, **given))
            assert caught.value.option in given
        with pytest.raises(InvalidSubject):
            await listed(sb.streams.get_many(name, subject="a..b"))
        with pytest.raises(StreamNotFound):
            await listed(sb.streams.get_many("NOWHERE"))
        with pytest.raises(StreamNotFound):
            await listed(sb.streams.get_many("NOWHERE", subject="a"))
