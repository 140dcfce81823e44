"""Keys that leave nothing behind: the words of deletions are dropped, and whoever was away is told all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker import InvalidOption, Operation
from broker.testing.conformance.key_value import a_bucket
from broker.testing.conformance.scene import Conformance, listed
from broker.testing.conformance.watching import keyed, taken
from broker.testing.waiting import never

if TYPE_CHECKING:
    from broker import KeyValue, StreamBroker
    from broker.testing.conformance.scene import Connect


async def disturbed(sb: StreamBroker, kv: KeyValue) -> None:
    """Whoever watches the bucket hears nothing from now on, until it is asked for the next entry."""
    for name in await listed(sb.consumers.names(f"KV_{kv.bucket}")):
        await sb.consumers.delete(f"KV_{kv.bucket}", name)


class ForgetConformance(Conformance):
    """Promises of ``KeyValue.purge_deletes``, and of a watch that was away."""

    async def test_deleted_keys_are_forgotten_and_the_others_are_not(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        for key in ("deleted", "purged", "written.again", "kept", "kept.too"):
            await kv.put(key, 1)
        for key in ("deleted", "written.again"):
            await kv.delete(key)
        await kv.purge("purged")
        await kv.put("written.again", 2)
        assert await kv.purge_deletes() == 0
        assert len(await kv.history("deleted")) == 2
        assert await kv.purge_deletes(older_than=0) == 2
        assert await kv.history("deleted") == await kv.history("purged") == []
        assert len(await kv.history("written.again")) == 3
        assert sorted(await listed(kv.keys())) == ["kept", "kept.too", "written.again"]
        assert await kv.purge_deletes(older_than=0) == 0
        assert await kv.create("deleted", 3) > 0

    async def test_a_key_that_gets_a_value_meanwhile_keeps_it(self, connect: Connect) -> None:
        one, other = await connect(), await connect()
        kv = await a_bucket(one)
        twin = await other.key_value(kv.bucket, ensure="bind")
        keys = [f"key.{number}" for number in range(100)]
        for key in keys:
            await kv.put(key, 1)
            await kv.delete(key)

        async def write() -> None:
            for key in keys:
                await twin.create(key, 2)

        await asyncio.gather(kv.purge_deletes(older_than=0), write())
        assert sorted(await listed(kv.keys())) == sorted(keys)

    async def test_what_cannot_be_is_refused(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        await kv.put("a", 1)
        await kv.delete("a")
        for wrong in (-1, "1", True, None):
            with pytest.raises(InvalidOption) as caught:
                await kv.purge_deletes(older_than=wrong)  # type: ignore[arg-type] # that is what is tested
            assert caught.value.option == "older_than"
        assert len(await kv.history("a")) == 2

    async def test_what_went_while_a_watch_was_away_is_told_once(self, connect: Connect) -> None:
        sb = await connect()
        kv = await a_bucket(sb)
        for key in ("room.a", "room.b", "room.c", "player.d", "room.e"):
            await kv.put(key, 1)
        async with kv.watch("room.*") as watch:
            assert len(await taken(watch, 4)) == 4
            await disturbed(sb, kv)
            for key in ("room.a", "room.c", "player.d", "room.e"):
                await kv.delete(key)
            assert await kv.purge_deletes(older_than=0) == 4
            await kv.put("room.c", 2)
            await kv.delete("room.b")
            last = await kv.put("room.f", 3)
            told = await taken(watch, 5)
            gone = [("room.a", Operation.PURGE), ("room.e", Operation.PURGE)]
            assert keyed(told) == [*gone, ("room.c", 2), ("room.b", Operation.DELETE), ("room.f", 3)]
            revisions = [entry.revision for entry in told]
            assert revisions == sorted(revisions)
            assert (revisions[0], revisions[-1], told[0].value) == (6, last, b"")
            await disturbed(sb, kv)
            await kv.put("room.f", 4)
            assert keyed(await taken(watch, 1)) == [("room.f", 4)]

    async def test_without_deletions_it_says_nothing_of_what_went(self, connect: Connect) -> None:
        sb = await connect()
        kv = await a_bucket(sb)
        await kv.put("a", 1)
        async with kv.watch(deletes=False) as watch:
            await taken(watch, 1)
            await disturbed(sb, kv)
            await kv.delete("a")
            await kv.purge_deletes(older_than=0)
            await kv.put("b", 2)
            assert keyed(await taken(watch, 1)) == [("b", 2)]

    async def test_what_it_never_told_of_is_not_missed(self, connect: Connect) -> None:
        sb = await connect()
        kv = await a_bucket(sb)
        await kv.put("a", 1)
        async with kv.watch(updates_only=True) as watch:
            await kv.put("b", 2)
            assert keyed(await taken(watch, 1)) == [("b", 2)]
            await disturbed(sb, kv)
            for key in ("a", "b"):
                await kv.delete(key)
            await kv.purge_deletes(older_than=0)
            assert keyed(await taken(watch, 1)) == [("b", Operation.PURGE)]
            following = asyncio.ensure_future(anext(watch))
            await never(following.done, during=0.2)
            await kv.put("c", 3)
            async with asyncio.timeout(15):
                assert keyed([await following]) == [("c", 3)]

    async def test_a_step_that_is_cancelled_loses_none_of_it(self, connect: Connect) -> None:
        sb = await connect()
        kv = await a_bucket(sb)
        keys = [f"key.{number}" for number in range(30)]
        for key in keys:
            await kv.put(key, 1)
        async with kv.watch() as watch:
            assert len(await taken(watch, 30)) == 30
            await disturbed(sb, kv)
            for key in keys:
                await kv.delete(key)
            await kv.purge_deletes(older_than=0)
            told = []
            for turns in range(40):
                step = asyncio.ensure_future(anext(watch))
                for _ in range(turns):
                    await asyncio.sleep(0)
                step.cancel()
                await asyncio.wait({step})
                if not step.cancelled():
                    told.append(await step)
            told += await taken(watch, 30 - len(told))
        assert keyed(told) == [(key, Operation.PURGE) for key in sorted(keys)]
