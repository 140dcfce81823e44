"""Keys on a clock that is driven by hand, and writes whose answer is lost."""

import asyncio

import pytest
import pytest_asyncio

from broker import ConnectionLost, Operation, RequestTimeout, SequenceConflict, StreamBroker, WriteUnknown
from broker.backends.memory.backend import MemoryBackend
from broker.backends.memory.clock import ManualClock
from broker.backends.memory.hub import MemoryHub
from broker.testing.waiting import eventually


class Forgetful(MemoryBackend):
    """Loses answers: ``lost`` of appends that were stored, ``dropped`` of appends that never arrived.

    A server that ``began_anew`` does not remember the ids of what is gone.
    """

    lost = 0
    dropped = 0
    began_anew = False

    def append(self, record, *, timeout):
        future = asyncio.get_running_loop().create_future()
        if self.lost:
            self.lost -= 1
            super().append(record, timeout=timeout).add_done_callback(lambda done: self._lose(done, future))
        elif self.dropped:
            self.dropped -= 1
            asyncio.get_running_loop().call_soon(self._lose, None, future)
        else:
            return super().append(record, timeout=timeout)
        return future

    def _lose(self, done, future):
        if done is not None:
            done.exception()
        future.set_exception((ConnectionLost if self.began_anew else RequestTimeout)("lost on its way"))

    async def look_up(self, record, *, timeout):
        return None if self.began_anew else await super().look_up(record, timeout=timeout)


@pytest.fixture
def clock():
    return ManualClock()


@pytest_asyncio.fixture
async def backend(clock):
    return Forgetful(MemoryHub(clock=clock))


@pytest_asyncio.fixture
async def sb(backend):
    async with StreamBroker(backend) as connected:
        yield connected


@pytest_asyncio.fixture
async def kv(sb):
    return await sb.key_value("bucket", marker_ttl=2)


async def operations(kv, key):
    return [entry.operation for entry in await kv.history(key)]


async def test_a_key_expires_to_the_second_and_its_marker_after_it(kv, clock):
    await kv.put("a", b"older")
    await kv.put("a", b"1", ttl=10)
    clock.advance(9.99)
    assert await kv.get("a") is not None
    clock.advance(0.02)
    assert await kv.get("a") is None
    assert await operations(kv, "a") == [Operation.EXPIRED]
    clock.advance(1.9)
    assert await operations(kv, "a") == [Operation.EXPIRED]
    clock.advance(0.2)
    assert await operations(kv, "a") == []


async def test_expiry_of_what_was_purged_is_no_news(kv, clock):
    await kv.put("a", b"1")
    await kv.purge("a", ttl=3)
    clock.advance(3.1)
    assert await operations(kv, "a") == []


async def test_a_watcher_hears_of_expiry(kv, clock):
    async with kv.watch() as watch:
        await kv.put("a", b"1", ttl=5)
        assert (await anext(watch)).operation is Operation.PUT
        waiting = asyncio.ensure_future(anext(watch))
        for _ in range(10):
            await asyncio.sleep(0)
        clock.advance(5)
        entry = await asyncio.wait_for(waiting, 5)
        assert (entry.key, entry.operation, entry.revision) == ("a", Operation.EXPIRED, 2)


async def test_a_bucket_s_own_lifetime_ends_every_value(sb, clock):
    kv = await sb.key_value("short", ttl=30, marker_ttl=1)
    await kv.put("a", b"1")
    clock.advance(20)
    await kv.put("b", b"1")
    clock.advance(10.5)
    assert (await kv.get("a"), (await kv.get("b")).value) == (None, b"1")
    assert await operations(kv, "a") == [Operation.EXPIRED]


async def test_a_write_whose_answer_is_lost_is_found_again(kv, backend):
    first = await kv.put("a", b"1")
    backend.lost = 1
    second = await kv.update("a", b"2", revision=first)
    assert (second, (await kv.get("a")).value) == (first + 1, b"2")
    backend.lost = 2
    assert await kv.create("b", b"1") == second + 1
    backend.lost = 1
    assert await kv.put("a", b"3") == second + 2
    assert len(await kv.history("a")) == 3


async def test_a_write_that_never_arrived_is_written_by_the_next_attempt(kv, backend):
    first = await kv.put("a", b"1")
    backend.dropped = 2
    assert await kv.update("a", b"2", revision=first) == first + 1


async def with_somebody_in_between(kv, backend, first, *, arrived, **options):
    """An update whose first attempt gets no answer; somebody else writes before the second."""
    if arrived:
        backend.lost = 1
    else:
        backend.dropped = 1
    other = StreamBroker(MemoryBackend(backend._hub))
    theirs = await other.key_value("bucket", ensure="bind")

    async def interfere():
        await eventually(lambda: not backend.lost and not backend.dropped)
        await theirs.put("a", b"theirs", **options)

    interfering = asyncio.ensure_future(interfere())
    try:
        return await kv.update("a", b"ours", revision=first)
    finally:
        await interfering
        await other.aclose()


async def test_a_lost_answer_is_found_behind_somebody_else_s_write(kv, backend):
    first = await kv.put("a", b"1")
    assert await with_somebody_in_between(kv, backend, first, arrived=True) == first + 1
    assert [entry.value for entry in await kv.history("a")] == [b"1", b"ours", b"theirs"]


async def test_somebody_else_s_write_is_told_from_ours(kv, backend):
    first = await kv.put("a", b"1")
    with pytest.raises(SequenceConflict):
        await with_somebody_in_between(kv, backend, first, arrived=False)
    assert [entry.value for entry in await kv.history("a")] == [b"1", b"theirs"]


async def test_a_lost_answer_is_found_when_somebody_else_s_write_dropped_the_history(kv, backend):
    first = await kv.put("a", b"1")
    assert await with_somebody_in_between(kv, backend, first, arrived=True, ttl=60) == first + 1
    assert [entry.value for entry in await kv.history("a")] == [b"theirs"]


async def test_what_nobody_can_know_any_more_is_unknown(kv, backend):
    first = await kv.put("a", b"1")
    backend.began_anew = True
    with pytest.raises(WriteUnknown) as caught:
        await with_somebody_in_between(kv, backend, first, arrived=True, ttl=60)
    assert (caught.value.key, caught.value.revision) == ("a", first)


async def test_modify_does_not_repeat_what_may_be_in(kv, backend):
    await kv.put("count", 1)
    backend.lost = 1000
    with pytest.raises(WriteUnknown):
        await kv.modify("count", lambda entry: entry.json() + 1, timeout=0.3)
    backend.lost = 0
    assert (await kv.get("count")).json() == 2


async def test_only_words_that_are_old_enough_are_dropped(kv, clock, monkeypatch):
    for key in ("old", "young"):
        await kv.put(key, 1)
        await kv.delete(key)
        clock.advance(60)
    (*_, deleted) = await kv.history("old")
    for age, count in ((59, 0), (61, 1), (61, 0), (121, 1)):
        monkeypatch.setattr("time.time", lambda age=age: deleted.created.timestamp() + age)
        assert await kv.purge_deletes(older_than=60) == count
    assert [await operations(kv, key) for key in ("old", "young")] == [[], []]


class Overlooked(Forgetful):
    """Loses its consumers and, so often, who is asked what is stored."""

    silent = 0
    opened = 0

    async def open_consumer(self, options):
        self.opened += 1
        if self.silent and options.start == "last_per_subject":
            self.silent -= 1
            raise RequestTimeout("lost on its way")
        return await super().open_consumer(options)


async def test_a_watch_that_comes_back_asks_until_it_knows_what_went(clock):
    backend = Overlooked(MemoryHub(clock=clock))
    async with StreamBroker(backend) as sb:
        kv = await sb.key_value("bucket", marker_ttl=2)
        await kv.put("a", b"1")
        async with kv.watch() as watch:
            assert (await anext(watch)).key == "a"
            for name in [each async for each in sb.consumers.names("KV_bucket")]:
                await sb.consumers.delete("KV_bucket", name)
            await kv.delete("a")
            assert await kv.purge_deletes(older_than=0) == 1
            backend.silent = 2
            entry = await asyncio.wait_for(anext(watch), 10)
            assert (entry.key, entry.operation, backend.silent) == ("a", Operation.PURGE, 0)


async def test_a_watch_that_missed_nothing_asks_nothing(clock):
    backend = Overlooked(MemoryHub(clock=clock))
    async with StreamBroker(backend) as sb:
        kv = await sb.key_value("bucket", marker_ttl=2)
        await kv.put("a", b"1")
        async with kv.watch() as watch:
            assert (await anext(watch)).key == "a"
            for number in range(3):
                for name in [each async for each in sb.consumers.names("KV_bucket")]:
                    await sb.consumers.delete("KV_bucket", name)
                await kv.put("b", number)
                await kv.delete("a")
                told = [await asyncio.wait_for(anext(watch), 10) for _ in range(2)]
                assert [each.key for each in told] == ["b", "a"]
            assert backend.opened == 4


async def test_a_watch_that_is_closed_while_it_asks_what_went_ends(clock):
    backend = Overlooked(MemoryHub(clock=clock))
    async with StreamBroker(backend) as sb:
        kv = await sb.key_value("bucket", marker_ttl=2)
        await kv.put("a", b"1")
        watch = kv.watch()
        assert (await anext(watch)).key == "a"
        for name in [each async for each in sb.consumers.names("KV_bucket")]:
            await sb.consumers.delete("KV_bucket", name)
        await kv.delete("a")
        assert await kv.purge_deletes(older_than=0) == 1
        backend.silent = 1_000_000
        waiting = asyncio.ensure_future(anext(watch))
        await eventually(lambda: backend.silent < 1_000_000)
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 10)
