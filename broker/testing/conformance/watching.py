"""Watching keys: what is there, the moment when all of it was told, and everything after it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import BucketNotFound, KeyEntry, Operation
from broker.testing.conformance.key_value import a_bucket
from broker.testing.conformance.scene import Conformance, claims, listed, optional
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import Watch
    from broker.testing.conformance.scene import Connect


async def taken(watch: Watch, number: int, within: float = 15.0) -> list[KeyEntry]:
    """The next so many entries."""
    async with asyncio.timeout(within):
        return [await anext(watch) for _ in range(number)]


def keyed(entries: list[KeyEntry]) -> list[tuple[str, Any]]:
    """Keys and what became of them."""
    return [(each.key, each.json() if each.operation is Operation.PUT else each.operation) for each in entries]


class WatchConformance(Conformance):
    """Promises of ``KeyValue.watch``."""

    async def test_what_is_there_then_what_happens(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        for number in range(3):
            await kv.put("a", number)
        await kv.put("b", 3)
        await kv.put("c", 4)
        await kv.delete("c")
        async with kv.watch() as watch:
            assert not watch.ready.is_set()
            assert keyed(await taken(watch, 2)) == [("a", 2), ("b", 3)]
            assert not watch.ready.is_set()
            assert keyed(await taken(watch, 1)) == [("c", Operation.DELETE)]
            assert watch.ready.is_set()
            await kv.put("a", 7)
            await kv.purge("b")
            await kv.put("d", 8)
            assert keyed(await taken(watch, 3)) == [("a", 7), ("b", Operation.PURGE), ("d", 8)]

    async def test_an_empty_bucket_is_ready_at_once(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        async with kv.watch() as watch:
            assert watch.ready.is_set()
            waiting = asyncio.ensure_future(anext(watch))
            await never(waiting.done, during=0.1)
            await kv.put("a", 1)
            async with asyncio.timeout(10):
                assert keyed([await waiting]) == [("a", 1)]
        async with kv.watch("nobody.*") as watch:
            assert watch.ready.is_set()

    async def test_it_needs_no_block(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        await kv.put("a", 1)
        watch, seen = kv.watch(), list[KeyEntry]()
        async for entry in watch:
            seen.append(entry)
            if watch.ready.is_set():
                await watch.aclose()
        assert keyed(seen) == [("a", 1)]
        assert await listed(watch) == []

    async def test_only_the_keys_asked_for(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        for number, key in enumerate(("room.1", "room.1.seat", "player.ann", "lobby")):
            await kv.put(key, number)
        async with kv.watch("room.*", "lobby") as watch:
            assert keyed(await taken(watch, 2)) == [("room.1", 0), ("lobby", 3)]
            assert watch.ready.is_set()
            await kv.put("player.ann", 4)
            await kv.put("room.2", 5)
            assert keyed(await taken(watch, 1)) == [("room.2", 5)]

    async def test_with_history_or_only_updates_or_without_deletes(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        await kv.put("a", 0)
        await kv.put("b", 1)
        await kv.put("a", 2)
        await kv.delete("b")
        async with kv.watch(history=True) as watch:
            assert keyed(await taken(watch, 4)) == [("a", 0), ("b", 1), ("a", 2), ("b", Operation.DELETE)]
            assert watch.ready.is_set()
        async with kv.watch(updates_only=True) as watch:
            assert watch.ready.is_set()
            await kv.put("a", 3)
            assert keyed(await taken(watch, 1)) == [("a", 3)]
        async with kv.watch(deletes=False) as watch:
            assert keyed(await taken(watch, 1)) == [("a", 3)]
            await kv.delete("a")
            await kv.put("b", 4)
            assert keyed(await taken(watch, 1)) == [("b", 4)]
            assert watch.ready.is_set()

    async def test_ready_never_comes_early_while_others_write(self, connect: Connect) -> None:
        """Whatever is replaced, deleted or added meanwhile: every key that was there has been told of by then."""
        kv = await a_bucket(await connect(), history=1)
        keys = {f"key.{number}" for number in range(600)}
        await asyncio.gather(*(kv.put(key, 0) for key in sorted(keys)))

        async def disturb() -> None:
            for number in range(120):
                await kv.put(f"key.{599 - number * 4}", 1)
                await kv.put(f"new.{number}", 1)
                await kv.delete(f"key.{number * 5}")

        disturbing = asyncio.ensure_future(disturb())
        seen, revisions = set[str](), list[int]()
        async with kv.watch() as watch, asyncio.timeout(15):
            async for entry in watch:
                seen.add(entry.key)
                revisions.append(entry.revision)
                if watch.ready.is_set():
                    break
        assert keys <= seen
        assert revisions == sorted(set(revisions))
        await disturbing

    async def test_ready_comes_when_the_rest_has_gone(self, connect: Connect) -> None:
        """What was to be told of last is gone without a trace before it could be."""
        sb = await connect()
        kv = await a_bucket(sb)
        for number in range(400):
            await kv.put(f"key.{number}", number)
        async with kv.watch() as watch:
            await taken(watch, 1)
            await sb.streams.purge(f"KV_{kv.bucket}")
            entry = asyncio.ensure_future(self._until_ready(watch))
            async with asyncio.timeout(15):
                await watch.ready.wait()
            entry.cancel()

    async def test_expiry_is_an_event(self, connect: Connect) -> None:
        sb = await connect()
        if not claims(sb).expires_messages:
            return  # the capability's own test proves that this is no understatement
        kv = await a_bucket(sb)
        async with kv.watch() as watch:
            await kv.put("lease", "older")
            assert keyed(await taken(watch, 1)) == [("lease", "older")]
            await kv.put("lease", "mine", ttl=1)
            assert keyed(await taken(watch, 1)) == [("lease", "mine")]
            (entry,) = await taken(watch, 1)
            assert (entry.key, entry.operation, entry.value) == ("lease", Operation.EXPIRED, b"")
            assert await kv.get("lease") is None
            assert await kv.create("lease", "yours") == entry.revision + 1

    async def test_expiry_of_a_whole_bucket_is_an_event(self, connect: Connect) -> None:
        kv = await a_bucket(await connect(), ttl=1)
        async with kv.watch() as watch:
            await kv.put("a", 1)
            assert keyed(await taken(watch, 2)) == [("a", 1), ("a", Operation.EXPIRED)]

    async def test_a_bucket_may_let_keys_expire_silently(self, connect: Connect) -> None:
        kv = await a_bucket(await connect(), marker_ttl=None)
        async with kv.watch() as watch:
            await kv.put("lease", 1, ttl=1)
            assert keyed(await taken(watch, 1)) == [("lease", 1)]

            async def gone() -> bool:
                return await kv.history("lease") == []

            await eventually(gone, within=10)
            await kv.put("a", 2)
            assert keyed(await taken(watch, 1)) == [("a", 2)]

    async def test_a_deleted_bucket_ends_it(self, connect: Connect) -> None:
        sb = await connect()
        kv = await a_bucket(sb)
        await kv.put("a", 1)
        async with kv.watch() as watch:
            await taken(watch, 1)
            waiting = asyncio.ensure_future(anext(watch))
            await never(waiting.done, during=0.1)
            await sb.buckets.delete(kv.bucket)
            async with asyncio.timeout(15):
                with pytest.raises(BucketNotFound) as caught:
                    await waiting
            assert caught.value.bucket == kv.bucket

    async def test_it_ends_with_its_broker(self, connect: Connect) -> None:
        sb = await connect()
        kv = await a_bucket(sb)
        watch, seen = kv.watch(), list[KeyEntry]()

        async def follow() -> str:
            async for entry in watch:
                seen.append(entry)
            return "ended"

        following = asyncio.ensure_future(follow())
        await kv.put("a", 1)
        await eventually(lambda: seen)
        await sb.drain()
        async with asyncio.timeout(10):
            assert await following == "ended"

    async def test_cancelling_a_step_loses_nothing(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        seen = list[KeyEntry]()
        async with kv.watch() as watch:
            for number in range(40):
                await kv.put(f"key.{number % 7}", number)
                try:
                    async with asyncio.timeout(0.001 * (number % 4)):
                        seen.append(await anext(watch))
                except TimeoutError:
                    pass
            seen += await taken(watch, 40 - len(seen))
        assert [each.json() for each in seen] == list(range(40))

    async def test_it_goes_on_when_its_consumer_is_gone(self, connect: Connect) -> None:
        """As it is after nobody asked for more for a long while."""
        sb = await connect()
        kv = await a_bucket(sb)
        await kv.put("a", 0)
        async with kv.watch() as watch:
            assert keyed(await taken(watch, 1)) == [("a", 0)]
            for number in range(1, 4):
                for name in await listed(sb.consumers.names(f"KV_{kv.bucket}")):
                    await sb.consumers.delete(f"KV_{kv.bucket}", name)
                await kv.put("a", number)
                assert keyed(await taken(watch, 1)) == [("a", number)]

    async def test_a_first_step_that_is_cancelled_loses_nothing(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        await kv.put("a", 0)
        for turns in range(12):
            watch = kv.watch()
            step = asyncio.ensure_future(anext(watch))
            for _ in range(turns):
                await asyncio.sleep(0)
            step.cancel()
            await asyncio.wait({step})
            assert keyed([await step] if not step.cancelled() else await taken(watch, 1)) == [("a", 0)]
            assert watch.ready.is_set()
            await watch.aclose()

    async def test_it_goes_on_after_a_restart_of_the_server(
        self, connect: Connect, request: pytest.FixtureRequest
    ) -> None:
        sb = await connect()
        if not claims(sb).survives_restart:
            return  # then there is nothing to go on with
        kv = await a_bucket(sb, history=64)
        await kv.put("before", 0)
        seen = list[KeyEntry]()
        async with kv.watch() as watch:

            async def follow() -> None:
                async for entry in watch:
                    seen.append(entry)

            following = asyncio.ensure_future(follow())
            for number in range(1, 11):
                await kv.put("a", number)
            await optional(request, "restart")()
            for number in range(11, 21):
                await kv.put("a", number, timeout=15)
            await eventually(lambda: len(seen) == 21, within=15)
            following.cancel()
        assert [each.json() for each in seen] == list(range(21))
        assert [each.revision for each in seen] == list(range(1, 22))

    @staticmethod
    async def _until_ready(watch: Watch) -> None:
        async for _ in watch:
            if watch.ready.is_set():
                return
