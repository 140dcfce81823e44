"""Keys: values with revisions, written by compare-and-set, deleted, expired, kept in a history."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    BucketNotFound,
    BucketOptions,
    BytesCodec,
    ConfigDrift,
    EncodeError,
    InvalidKey,
    InvalidOption,
    KeyEntry,
    KeyExists,
    Operation,
    PayloadTooLarge,
    RequestTimeout,
    SequenceConflict,
    StreamFull,
    StreamOptions,
    WriteUnknown,
)
from broker.testing.conformance.scene import Conformance, claims, fresh, listed
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import KeyValue, StreamBroker
    from broker.testing.conformance.scene import Connect

BAD_KEYS = ("", ".", "a.", ".a", "a..b", "a b", "a*", "a.*", ">", "ä", "a\n", "a$b", "k" * 600, None, 7, b"a")
BAD_FILTERS = ("", "a.", "a..b", "a b", "a.>.b", "a*", "a.b>", None, 7)


async def a_bucket(sb: StreamBroker, **options: Any) -> KeyValue:
    """A new bucket; keys in it may live for as little as a second."""
    return await sb.key_value(fresh("bucket"), **{"marker_ttl": 1, **options})


def told(entry: KeyEntry | None) -> tuple[str, Operation, bytes] | None:
    """What an entry says."""
    return None if entry is None else (entry.key, entry.operation, entry.value)


class KeyValueConformance(Conformance):
    """Promises of ``KeyValue``, watching apart."""

    async def test_a_value_is_read_back_with_its_revision(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        before = datetime.now(UTC) - timedelta(minutes=1)
        assert await kv.get("room.42") is None
        assert await kv.put("room.42", {"players": 3}) == 1
        assert await kv.put("room.7", b"\x00raw") == 2
        first, second = await kv.get("room.42"), await kv.get("room.7")
        assert first is not None
        assert second is not None
        assert (first.bucket, first.key, first.revision) == (kv.bucket, "room.42", 1)
        assert (first.operation, first.deleted) == (Operation.PUT, False)
        assert first.json() == {"players": 3}
        assert first.decode(dict[str, int]) == {"players": 3}
        assert before < first.created < datetime.now(UTC) + timedelta(minutes=1)
        assert (second.value, second.revision) == (b"\x00raw", 2)

    async def test_an_older_revision_can_be_read(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        await kv.put("a", b"1")
        await kv.put("b", b"other")
        await kv.put("a", b"3")
        assert told(await kv.get("a", revision=1)) == ("a", Operation.PUT, b"1")
        assert await kv.get("a", revision=2) is None
        assert await kv.get("a", revision=9) is None

    async def test_values_go_through_the_codec(self, connect: Connect) -> None:
        kv = await a_bucket(await connect(codec=BytesCodec()))
        with pytest.raises(EncodeError):
            await kv.put("a", {"not": "bytes"})
        assert await kv.put("a", b"bytes") == 1

    async def test_create_only_where_there_is_no_value(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        assert await kv.create("a", b"1") == 1
        with pytest.raises(KeyExists) as caught:
            await kv.create("a", b"2")
        assert caught.value.key == "a"
        await kv.delete("a")
        assert await kv.create("a", b"3") == 3
        await kv.purge("a")
        assert await kv.create("a", b"4") == 5
        assert told(await kv.get("a")) == ("a", Operation.PUT, b"4")

    async def test_update_is_exact(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        first = await kv.put("a", b"1")
        await kv.put("b", b"another key does not matter")
        second = await kv.update("a", b"2", revision=first)
        with pytest.raises(SequenceConflict):
            await kv.update("a", b"3", revision=first)
        with pytest.raises(SequenceConflict):
            await kv.update("a", b"3", revision=0)
        assert await kv.update("new", b"1", revision=0) == second + 1
        assert told(await kv.get("a")) == ("a", Operation.PUT, b"2")

    async def test_of_many_who_update_one_gets_through(self, connect: Connect) -> None:
        one, other = await connect(), await connect()
        kv = await a_bucket(one)
        twin = await other.key_value(kv.bucket, ensure="bind")
        revision = await kv.put("a", b"0")
        outcomes = await asyncio.gather(
            *(each.update("a", b"mine", revision=revision) for each in (kv, twin) * 10), return_exceptions=True
        )
        assert sum(isinstance(each, int) for each in outcomes) == 1
        assert sum(isinstance(each, SequenceConflict) for each in outcomes) == 19

    async def test_modify_loses_no_change(self, connect: Connect) -> None:
        one, other = await connect(), await connect()
        kv = await a_bucket(one)
        twin = await other.key_value(kv.bucket, ensure="bind")

        def one_more(entry: KeyEntry | None) -> int:
            return 1 if entry is None else entry.json() + 1

        async def one_more_later(entry: KeyEntry | None) -> int:
            await asyncio.sleep(0)
            return one_more(entry)

        async def work(mine: KeyValue) -> None:
            for change in (one_more, one_more_later) * 3:
                await mine.modify("count", change, timeout=15)

        await asyncio.gather(*(work(each) for each in (kv, twin) * 2))
        entry = await kv.get("count")
        assert entry is not None
        assert entry.json() == 24

    async def test_modify_ends_with_what_the_change_raises_and_at_its_deadline(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())

        def refuse(entry: KeyEntry | None) -> int:
            raise LookupError(entry)

        with pytest.raises(LookupError):
            await kv.modify("a", refuse)

        async def always_late(_: KeyEntry | None) -> bytes:
            await kv.put("a", b"theirs")
            return b"mine"

        # The last try may be sent with no time left to hear of it, or not even be read for.
        with pytest.raises((SequenceConflict, WriteUnknown, RequestTimeout)):
            await kv.modify("a", always_late, timeout=0.3)
        assert told(await kv.get("a")) == ("a", Operation.PUT, b"theirs")

    async def test_a_deleted_key_has_no_value_but_a_history(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        await kv.put("a", b"1")
        await kv.put("a", b"2")
        assert await kv.delete("a") == 3
        assert await kv.get("a") is None
        assert await kv.get("a", revision=1) is not None
        assert [told(each) for each in await kv.history("a")] == [
            ("a", Operation.PUT, b"1"),
            ("a", Operation.PUT, b"2"),
            ("a", Operation.DELETE, b""),
        ]
        assert await kv.history("never") == []

    async def test_a_purged_key_has_none(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        await kv.put("a", b"1")
        await kv.put("b", b"1")
        assert await kv.purge("a") == 3
        assert await kv.get("a") is None
        assert [told(each) for each in await kv.history("a")] == [("a", Operation.PURGE, b"")]
        assert told(await kv.get("b")) == ("b", Operation.PUT, b"1")

    async def test_deleting_can_be_exact_too(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        first = await kv.put("a", b"1")
        second = await kv.put("a", b"2")
        for verb in (kv.delete, kv.purge):
            with pytest.raises(SequenceConflict):
                await verb("a", revision=first)
        assert await kv.delete("a", revision=second) == 3
        assert await kv.purge("a", revision=3) == 4

    async def test_the_history_has_its_length(self, connect: Connect) -> None:
        kv = await a_bucket(await connect(), history=3)
        for number in range(5):
            await kv.put("a", number)
        await kv.put("b", 0)
        assert [each.json() for each in await kv.history("a")] == [2, 3, 4]
        assert [each.revision for each in await kv.history("a")] == [3, 4, 5]

    async def test_keys_are_those_with_a_value(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        assert await listed(kv.keys()) == []
        for key in ("room.1", "room.2", "room.2.seat", "player.ann", "gone", "purged"):
            await kv.put(key, b"x" * 100)
        await kv.delete("gone")
        await kv.purge("purged")
        await kv.put("room.1", b"again")
        assert sorted(await listed(kv.keys())) == ["player.ann", "room.1", "room.2", "room.2.seat"]
        assert sorted(await listed(kv.keys("room.*"))) == ["room.1", "room.2"]
        assert sorted(await listed(kv.keys("room.>"))) == ["room.1", "room.2", "room.2.seat"]
        assert sorted(await listed(kv.keys("room.2", "player.*"))) == ["player.ann", "room.2"]
        assert sorted(await listed(kv.keys("room.>", "room.1"))) == ["room.1", "room.2", "room.2.seat"]
        assert await listed(kv.keys("nobody.*")) == []

    async def test_a_key_expires(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        if not claims(await connect()).expires_messages:
            return  # the capability's own test proves that this is no understatement
        await kv.put("short", b"older, without end")
        await kv.put("short", b"1", ttl=1)
        await kv.create("lease", b"mine", ttl=1)
        await kv.put("long", b"1")

        async def gone() -> bool:
            return await kv.get("short") is None and await kv.get("lease") is None

        await never(gone, during=0.2)
        await eventually(gone, within=10)
        assert await listed(kv.keys()) == ["long"]
        assert await kv.create("lease", b"yours", ttl=1) > 0

    async def test_a_lease_is_kept_by_renewing_it(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        revision = await kv.create("lease", b"mine", ttl=2)
        for _ in range(3):
            await asyncio.sleep(1.0)
            revision = await kv.update("lease", b"mine", revision=revision, ttl=2)
        assert told(await kv.get("lease")) == ("lease", Operation.PUT, b"mine")

    async def test_a_whole_bucket_expires(self, connect: Connect) -> None:
        kv = await a_bucket(await connect(), ttl=1)
        await kv.put("a", b"1")
        assert await kv.get("a") is not None

        async def gone() -> bool:
            return await kv.get("a") is None

        await eventually(gone, within=10)

    async def test_what_is_purged_may_go_without_a_trace(self, connect: Connect) -> None:
        kv = await a_bucket(await connect())
        await kv.put("a", b"1")
        await kv.purge("a", ttl=1)
        assert [each.operation for each in await kv.history("a")] == [Operation.PURGE]

        async def forgotten() -> bool:
            return await kv.history("a") == []

        await eventually(forgotten, within=10)

    @pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
    async def test_a_bad_key_is_refused_at_once(self, connect: Connect, key: Any) -> None:
        kv = await a_bucket(await connect())
        for call in (kv.get, kv.delete, kv.purge, kv.history):
            with pytest.raises(InvalidKey):
                await call(key)
        for write in (kv.put, kv.create):
            with pytest.raises(InvalidKey):
                await write(key, b"")
        with pytest.raises(InvalidKey):
            await kv.update(key, b"", revision=1)
        with pytest.raises(InvalidKey):
            await kv.modify(key, lambda _: b"")
        assert (await kv.info()).entries == 0

    @pytest.mark.parametrize("given", BAD_FILTERS, ids=repr)
    async def test_a_bad_filter_is_refused_at_once(self, connect: Connect, given: Any) -> None:
        kv = await a_bucket(await connect())
        with pytest.raises(InvalidKey):
            kv.watch(given)
        with pytest.raises(InvalidKey):
            await listed(kv.keys(given))

    async def test_bad_options_are_refused_at_once(self, connect: Connect) -> None:
        sb = await connect()
        refused: tuple[tuple[str, tuple[Any, ...]], ...] = (
            ("history", (0, 65, 1.5, True)),
            ("ttl", (0, -1, "1")),
            ("max_bytes", (0, 0.5)),
            ("max_value_size", (0,)),
            ("replicas", (0, 6)),
            ("storage", ("disk",)),
            ("marker_ttl", (0.5, 1.5, 0)),
            ("ensure", ("maybe",)),
        )
        for option, values in refused:
            for value in values:
                with pytest.raises(InvalidOption) as caught:
                    await sb.key_value("bucket", **dict[str, Any]({option: value}))
                assert option in str(caught.value)
        for bucket in ("", "a.b", "a b", "a*", None, "b" * 251):
            with pytest.raises(InvalidOption, match="bucket="):
                await sb.key_value(bucket)  # type: ignore[arg-type] # that is what is tested
        kv = await a_bucket(sb, marker_ttl=3)
        for ttl in (0, 0.5, 1.5, 2, -1):
            with pytest.raises(InvalidOption, match="ttl="):
                await kv.put("a", b"", ttl=ttl)
        for revision in (-1, 1.5, None):
            with pytest.raises(InvalidOption, match="revision="):
                await kv.update("a", b"", revision=revision)  # type: ignore[arg-type] # that is what is tested
        for call in (kv.put("a", b"", timeout=-1), kv.modify("a", lambda _: b"", timeout=-1), kv.get("a", revision=0)):
            with pytest.raises(InvalidOption):
                await call
        with pytest.raises(InvalidOption, match="overlap"):
            kv.watch("a.*", "*.b")
        with pytest.raises(InvalidOption, match="contradict"):
            kv.watch(history=True, updates_only=True)
        assert (await kv.info()).entries == 0

    async def test_a_bucket_says_what_it_is(self, connect: Connect) -> None:
        sb = await connect()
        name = fresh("bucket")
        options = BucketOptions(name, history=3, ttl=60.0, max_bytes=1 << 20, max_value_size=100, description="seats")
        kv = await sb.key_value(name, history=3, ttl=60.0, max_bytes=1 << 20, max_value_size=100, description="seats")
        await kv.put("a", b"1")
        await kv.delete("a")
        info = await kv.info()
        assert info == await sb.buckets.info(name)
        assert (info.bucket, info.config, info.entries, info.last_revision) == (name, options, 2, 2)
        assert info.bytes > 0
        assert info.created is not None

    async def test_a_value_may_be_as_large_as_it_was_said_whatever_goes_with_it(self, connect: Connect) -> None:
        sb, key = await connect(), "k" * 400
        kv = await a_bucket(sb, max_value_size=10)
        await kv.put(key, b"x" * 10, ttl=60)
        await kv.delete(key)
        await kv.create(key, b"x" * 10)
        with pytest.raises(PayloadTooLarge) as refused:
            await kv.put(key, b"x" * 11)
        assert (refused.value.size, refused.value.limit, (await kv.info()).last_revision) == (11, 10, 3)
        await kv.purge(key)
        with pytest.raises(ConfigDrift) as drift:
            await sb.key_value(kv.bucket, max_value_size=11, marker_ttl=1)
        assert drift.value.differences == {"max_value_size": (11, 10)}

    async def test_buckets_are_listed_and_deleted(self, connect: Connect) -> None:
        sb = await connect()
        names = sorted([(await a_bucket(sb)).bucket for _ in range(3)])
        await sb.declare(StreamOptions(fresh("stream"), [fresh("subject")]))
        assert sorted(await listed(sb.buckets.names())) == names
        assert sorted(info.bucket for info in await listed(sb.buckets.list())) == names
        await sb.buckets.delete(names[0])
        assert sorted(await listed(sb.buckets.names())) == names[1:]
        with pytest.raises(BucketNotFound):
            await sb.buckets.delete(names[0])

    async def test_a_missing_bucket_is_named(self, connect: Connect) -> None:
        sb = await connect()
        kv = await sb.key_value(fresh("missing"), ensure="bind")
        for call in (kv.get("a"), kv.put("a", b"", timeout=5), kv.create("a", b""), kv.history("a"), kv.info()):
            with pytest.raises(BucketNotFound) as caught:
                await call
            assert caught.value.bucket == kv.bucket
        with pytest.raises(BucketNotFound):
            await listed(kv.keys())
        with pytest.raises(BucketNotFound):
            await listed(kv.watch())

    async def test_a_difference_is_named_or_mended(self, connect: Connect) -> None:
        sb = await connect()
        kv = await a_bucket(sb, history=3)
        assert (await sb.key_value(kv.bucket, history=3, marker_ttl=1)).bucket == kv.bucket
        with pytest.raises(ConfigDrift) as caught:
            await sb.key_value(kv.bucket, history=5, marker_ttl=1)
        assert caught.value.differences == {"history": (5, 3)}
        await sb.key_value(kv.bucket, history=5, marker_ttl=1, ensure="update")
        assert (await kv.info()).config.history == 5

    async def test_what_else_its_stream_does_is_left_alone(self, connect: Connect) -> None:
        sb = await connect()
        name = fresh("bucket")
        made = replace(BucketOptions(name, history=3).stream(), compression="s2", allow_direct=False)
        await sb.declare(made)
        await (await sb.key_value(name, history=3)).put("a", b"1")
        with pytest.raises(ConfigDrift) as caught:
            await sb.key_value(name, history=3, storage="memory", ensure="update")
        assert caught.value.differences == {"storage": ("memory", "file")}
        kv = await sb.key_value(name, history=5, ensure="update")
        assert told(await kv.get("a")) == ("a", Operation.PUT, b"1")
        assert (await sb.streams.info(made.name)).config == replace(made, max_msgs_per_subject=5)

    async def test_a_full_bucket_refuses(self, connect: Connect) -> None:
        kv = await a_bucket(await connect(), max_bytes=4096, history=1)
        puts = [kv.put(f"key.{number}", b"x" * 200) for number in range(100)]
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        assert 0 < sum(isinstance(each, StreamFull) for each in outcomes) < 100
        assert all(isinstance(each, int | StreamFull) for each in outcomes)
        assert told(await kv.get("key.0")) == ("key.0", Operation.PUT, b"x" * 200)
