"""Effects without a database: projections kept with their sequence, and claims that say what they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import Claims, InvalidKey, InvalidOption, Projection
from broker.testing.conformance.key_value import a_bucket
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, arrived
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker import StreamMessage
    from broker.testing.conformance.scene import Connect


def total(so_far: Any, message: StreamMessage) -> Any:
    """The sum of the bodies."""
    return (so_far or 0) + message.json()


class WithoutSqlConformance(Conformance):
    """Promises of ``Projection`` and ``Claims``."""

    async def test_a_projection_applies_each_message_once_however_often_it_is_read(self, connect: Connect) -> None:
        sb = await connect()
        name, projection = await a_stream(sb), Projection(await a_bucket(sb))
        for coins in (1, 10, 100):
            await sb.enqueue(f"{name}.a", coins)
        said = []
        for _ in range(2):
            async with sb.read(f"{name}.a", until="end") as messages:
                said.append([await projection.apply("bank", message, total) async for message in messages])
        assert said == [[True, True, True], [False, False, False]]
        assert await projection.get("bank") == 111
        assert await projection.get("nobody") is None

    async def test_what_is_read_of_lanes_is_read_again_after_a_restart(self, connect: Connect) -> None:
        sb = await connect()
        name, projection = await a_stream(sb, lanes=2), Projection(await a_bucket(sb))
        for coins in (1, 10, 100):
            await sb.enqueue(f"{name}.a", coins, ordering_key="ann")
        for _ in range(2):
            async with sb.read(f"{name}.a", until="end") as messages:
                async for message in messages:
                    await projection.apply("ann", message, total)
        assert await projection.get("ann") == 111

    async def test_a_worker_that_dies_before_its_ack_repeats_nothing(self, connect: Connect) -> None:
        sb, tried = await connect(), list[tuple[str, int]]()
        name, projection = await a_stream(sb, lanes=4), Projection(await a_bucket(sb))

        async def pay(msg: StreamMessage) -> None:
            player = msg.ordering_key or ""
            tried.append((player, msg.attempt))
            await projection.apply(player, msg, total)
            if msg.attempt == 1:
                raise ConnectionError("between the write and the ack")

        await sb.consume(f"{name}.a", pay, durable=WORKER, ordered=True, backoff=[0.01])
        for coins in (1, 10, 100):
            for player in ("ann", "bob"):
                await sb.enqueue(f"{name}.a", coins, ordering_key=player)
        await arrived(tried, 12)

        async def paid() -> bool:
            return [await projection.get(player) for player in ("ann", "bob")] == [111, 111]

        await eventually(paid)

    @pytest.mark.parametrize("lanes", [None, 2])
    async def test_a_projection_takes_no_messages_that_may_overtake_each_other(
        self, connect: Connect, lanes: int | None
    ) -> None:
        """Lanes alone do not help: it is ``ordered=True`` that keeps their order."""
        sb, told = await connect(), list[str]()
        name, projection = await a_stream(sb, lanes=lanes), Projection(await a_bucket(sb))

        async def pay(msg: StreamMessage) -> None:
            with pytest.raises(InvalidOption) as caught:
                await projection.apply("bank", msg, total)
            told.append(caught.value.option)

        await sb.consume(f"{name}.a", pay, durable=WORKER)
        await sb.enqueue(f"{name}.a", 1, ordering_key="ann" if lanes else None)
        await arrived(told, 1)
        assert told == ["message"]
        assert await projection.get("bank") is None

    async def test_a_key_is_built_from_one_origin(self, connect: Connect) -> None:
        sb = await connect()
        projection = Projection(await a_bucket(sb))
        for name in (await a_stream(sb), await a_stream(sb)):
            await sb.enqueue(f"{name}.a", 1)
            async with sb.read(f"{name}.a", until="end") as messages:
                async for message in messages:
                    if await projection.get("bank") is None:
                        await projection.apply("bank", message, total)
                        continue
                    with pytest.raises(InvalidOption, match="is built from"):
                        await projection.apply("bank", message, total)

    async def test_two_groups_are_two_orders_of_one_ordering_key(self, connect: Connect) -> None:
        """Each has its own pace, so that the one behind would be taken for applied."""
        sb, told = await connect(), list[int]()
        name = await a_stream(sb, lanes=2)
        projection = Projection(await a_bucket(sb))

        async def pay(msg: StreamMessage) -> None:
            try:
                await projection.apply("ann", msg, total)
            except InvalidOption:
                told.append(msg.json())

        for queue in ("points", "bonus"):
            await sb.consume(f"{name}.{queue}", pay, queue=queue, ordered=True)
        await sb.enqueue(f"{name}.points", 100, ordering_key="ann")

        async def is_built() -> bool:
            return bool(await projection.get("ann") == 100)

        await eventually(is_built)
        await sb.enqueue(f"{name}.bonus", 1, ordering_key="ann")
        await arrived(told, 1)
        assert await projection.get("ann") == 100

    async def test_one_of_many_gets_a_claim(self, connect: Connect) -> None:
        sb = await connect()
        claims = Claims(await a_bucket(sb))
        key = "battle 42 / ändern"
        assert not await claims.marked(key)
        assert sorted(await asyncio.gather(*(claims.claim(key) for _ in range(8)))) == [False] * 7 + [True]
        assert await claims.marked(key)
        assert await claims.claim("battle-43")

    async def test_what_is_marked_is_remembered(self, connect: Connect) -> None:
        sb = await connect()
        claims = Claims(await a_bucket(sb))
        for _ in range(2):
            await claims.mark("battle-42")
        assert await claims.marked("battle-42")
        assert not await claims.claim("battle-42")
        with pytest.raises(InvalidKey):
            await claims.mark("")
