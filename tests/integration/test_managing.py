"""What only a real server does with streams and consumers: pages, copies, files on disk, roles, foreign settings."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
import pytest_asyncio

from broker import (
    ApiError,
    ConfigDrift,
    ConnectionLost,
    ConsumerOptions,
    Entry,
    External,
    InvalidOption,
    PermissionDenied,
    Placement,
    StreamBroker,
    StreamOptions,
    StreamSource,
    SubjectTransform,
    Unsupported,
)
from broker.server import NatsServer
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

PAGE = 256
"""Streams and consumers a server lists at a time."""
MANY = 1024
"""Subjects for which a server answers at a time; names it lists at a time."""


@pytest_asyncio.fixture
async def server():
    async with NatsServer(sync_interval=None) as started:
        yield started


@pytest_asyncio.fixture
async def sb(server, link):
    async with StreamBroker.connect(server.url, link=link) as connected:
        yield connected


async def count(source):
    return len({each async for each in source})


async def test_streams_are_listed_page_by_page(sb):
    for number in range(PAGE + 44):
        await sb.streams.create(StreamOptions(f"S{number:04}", [f"s.{number}"], storage="memory"))
    names = [name async for name in sb.streams.names()]
    assert names == sorted(names) == [f"S{number:04}" for number in range(PAGE + 44)]
    assert [info.name async for info in sb.streams.list()] == names
    assert await count(sb.streams.names("s.1")) == 1
    assert await count(sb.streams.names("s.*")) == PAGE + 44
    assert len([info async for info in sb.streams.list("s.*")]) == PAGE + 44


async def test_consumers_are_listed_page_by_page(sb):
    await sb.declare(StreamOptions("S", ["s.>"], storage="memory"))
    for number in range(PAGE + 44):
        await sb.consumers.create(ConsumerOptions(durable=f"c{number:04}", stream="S", memory=True))
    names = [name async for name in sb.consumers.names("S")]
    assert sorted(names) == [f"c{number:04}" for number in range(PAGE + 44)]
    assert sorted([info.name async for info in sb.consumers.list("S")]) == sorted(names)


@pytest.mark.parametrize("direct", [True, False])
async def test_the_last_of_more_subjects_than_one_answer_holds(sb, direct):
    await sb.declare(StreamOptions("S", ["s.>"], allow_direct=direct))
    total = MANY + 200 if direct else 300
    await sb.enqueue_many(Entry(f"s.{number}", number) for number in range(total))
    last = {each.subject: each.json() async for each in sb.streams.get_last_many("S", ["s.>", "s.1"])}
    assert last == {f"s.{number}": number for number in range(total)}


async def test_as_of_a_moment_over_more_subjects_than_one_answer_holds(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    total = MANY + 200
    await sb.enqueue_many(Entry(f"s.{number}", "old") for number in range(total))
    await sb.enqueue_many(Entry(f"s.{number}", "new") for number in range(total))
    last = [each async for each in sb.streams.get_last_many("S", ["s.*"], up_to_seq=total)]
    assert {each.json() for each in last} == {"old"}
    assert len({each.subject for each in last}) == total


async def test_large_messages_of_many_subjects_come_in_pages_by_bytes(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await sb.enqueue_many((Entry(f"s.{number}", bytes(500_000)) for number in range(30)), window=8)
    last = [each async for each in sb.streams.get_last_many("S", ["s.*"])]
    assert sorted(len(each.data) for each in last) == [500_000] * 30


async def test_whoever_stops_reading_leaves_nothing_behind(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await sb.enqueue_many(Entry(f"s.{number}", number) for number in range(600))
    async for first in sb.streams.get_last_many("S", ["s.>"]):
        assert first.sequence == 1
        break
    assert len([each async for each in sb.streams.get_last_many("S", ["s.>"])]) == 600


async def test_a_connection_that_breaks_while_reading_is_told_at_once(sb, server):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await sb.enqueue_many(Entry(f"s.{number}", number) for number in range(600))
    reading = sb.streams.get_last_many("S", ["s.>"])
    assert (await anext(reading)).sequence == 1
    await server.freeze()
    rest = asyncio.ensure_future(count(reading))
    await asyncio.sleep(0.1)
    began = monotonic()
    await server.kill()
    with pytest.raises(ConnectionLost):
        await rest
    assert monotonic() - began < 15
    await server.start()
    assert await count(sb.streams.get_last_many("S", ["s.1"])) == 1


async def test_large_messages_of_a_run_come_in_pages_by_bytes(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await sb.enqueue_many((Entry("s.a", bytes(500_000)) for _ in range(30)), window=8)
    assert [len(each.data) async for each in sb.streams.get_many("S")] == [500_000] * 30
    assert len([each async for each in sb.streams.get_many("S", max_bytes=5_100_000)]) == 10


async def test_a_connection_that_breaks_in_a_run_is_told_at_once(sb, server):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await sb.enqueue_many(Entry("s.a", number) for number in range(600))
    reading = sb.streams.get_many("S", limit=600)
    assert (await anext(reading)).sequence == 1
    await server.freeze()
    rest = asyncio.ensure_future(count(reading))
    await asyncio.sleep(0.1)
    began = monotonic()
    await server.kill()
    with pytest.raises(ConnectionLost):
        await rest
    assert monotonic() - began < 15
    await server.start()
    assert await count(sb.streams.get_many("S", start=500, limit=600)) == 101


async def test_a_run_goes_on_through_the_api_when_direct_access_ends_half_way(sb):
    options = StreamOptions("S", ["s.>"])
    await sb.declare(options)
    await sb.enqueue_many(Entry("s.a", number) for number in range(300))
    seen = []
    async for message in sb.streams.get_many("S", limit=290):
        seen.append(message.json())
        if len(seen) == 1:
            await sb.streams.update(replace(options, allow_direct=False))
    assert seen == list(range(290))


async def test_a_stream_without_lanes_costs_one_question_where_no_stream_has_any(sb):
    asked = []
    api = sb._streams._admin._api
    call, api.call = api.call, lambda *args, **kwargs: asked.append(args[0]) or call(*args, **kwargs)
    await sb.declare(StreamOptions("S", ["s.1", "s.2", "s.3.>"]))
    assert asked == ["STREAM.NAMES", "STREAM.CREATE.S"]
    asked.clear()
    await sb.key_value("rooms")
    assert asked == ["STREAM.CREATE.KV_rooms"]
    await sb.declare(StreamOptions("L", ["l.1"], lanes=2))
    with pytest.raises(ApiError, match="lanes"):
        await sb.declare(StreamOptions("T", ["t.1", "l.*"]))


async def test_earlier_states_need_direct_access(sb):
    await sb.declare(StreamOptions("S", ["s.>"], allow_direct=False))
    await sb.enqueue("s.a", 1)
    for moment in ({"up_to_seq": 1}, {"up_to_time": datetime.now(UTC)}):
        with pytest.raises(Unsupported, match="allow_direct"):
            await count(sb.streams.get_last_many("S", ["s.>"], **moment))


async def test_a_mirror_has_what_its_origin_has(sb):
    await sb.declare(StreamOptions("ORIGIN", ["o.>"]))
    await sb.enqueue_many(Entry(f"o.{number}", number) for number in range(5))
    options = StreamOptions("COPY", mirror=StreamSource("ORIGIN"))
    await sb.declare(options)

    async def copied():
        return (await sb.streams.info("COPY")).messages == 5

    await eventually(copied, within=20)
    info = await sb.streams.info("COPY")
    assert (info.config, info.mirror.name, info.mirror.lag, info.mirror.error) == (options, "ORIGIN", 0, None)
    assert [(await sb.streams.get_message("COPY", each)).json() for each in range(1, 6)] == list(range(5))
    await sb.declare(options)
    with pytest.raises(ConfigDrift) as caught:
        await sb.streams.update(replace(options, mirror=StreamSource("OTHER")))
    assert set(caught.value.differences) == {"mirror"}
    promoted = StreamOptions("COPY", ["promoted"], mirror_direct=True)
    assert (await sb.streams.update(promoted)).config.mirror is None


async def test_sources_are_filtered_rewritten_and_started_where_asked(sb):
    await sb.declare(StreamOptions("A", ["a.>"]), StreamOptions("B", ["b.>"]))
    await sb.enqueue_many(Entry(f"a.{number % 2}", number) for number in range(6))
    await sb.enqueue("b.won", "b")
    sources = [
        StreamSource("A", filter="a.1", start=3),
        StreamSource("B", transforms=[SubjectTransform("b.*", "all.{{wildcard(1)}}")]),
    ]
    options = StreamOptions("ALL", ["own"], sources=sources)
    await sb.declare(options)

    async def copied():
        return (await sb.streams.info("ALL")).messages == 3

    await eventually(copied, within=20)
    assert (await sb.streams.info("ALL")).config == options
    assert {each.name for each in (await sb.streams.info("ALL")).sources} == {"A", "B"}
    last = {each.subject: each.json() async for each in sb.streams.get_last_many("ALL", [">"])}
    assert last == {"a.1": 5, "all.won": "b"}
    await sb.declare(replace(options, sources=sources[:1]), ensure="update")
    assert (await sb.streams.info("ALL")).config.sources == (sources[0],)


@pytest.mark.parametrize(
    "options",
    [
        {"sources": [StreamSource("FAR", domain="hub")]},
        {"sources": [StreamSource("FAR", external=External("$JS.hub.API", "deliver.here"))]},
        {"sources": [StreamSource("FAR", start=datetime(2026, 1, 2, 3, 4, 5, 678900, UTC))]},
        {"mirror": StreamSource("FAR", domain="hub")},
        {"mirror": StreamSource("FAR", filter="far.>", start=7)},
        {"subjects": ["p.>"], "placement": Placement("C1", ["ssd", "zone:a"])},
        {"subjects": ["p.>"], "delete_marker_ttl": 90.0},
        {"subjects": ["p.>"], "sources": [StreamSource("FAR")], "max_age": 60.0, "duplicate_window": 5.5},
    ],
    ids=str,
)
async def test_what_reaches_beyond_the_stream_comes_back(sb, options):
    declared = StreamOptions("S", **options)
    await sb.declare(declared)
    assert (await sb.streams.info("S")).config == declared
    await sb.declare(declared)


async def test_a_marker_is_left_where_a_subjects_last_message_expired(sb):
    await sb.declare(StreamOptions("S", ["s.>"], max_age=2.0, duplicate_window=2.0, delete_marker_ttl=60.0))
    await sb.enqueue("s.a", 1)

    async def marked():
        last = await sb.streams.get_last("S", "s.a")
        return last is not None and last.sequence > 1 and last.data == b""

    await eventually(marked, within=20)


async def test_an_erased_message_is_not_on_disk_any_more(sb, server):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await sb.enqueue("s.kept", b"first" * 20)
    for subject, words in (("s.left", b"left-on-disk-" * 9), ("s.gone", b"wiped-from-disk-" * 9)):
        await sb.enqueue(subject, words)
    await sb.enqueue("s.kept", b"last" * 20)
    assert await sb.streams.delete_message("S", 2)
    assert await sb.streams.delete_message("S", 3, no_erase=False)

    def on_disk(words):
        return any(words in path.read_bytes() for path in server.store_dir.rglob("*.blk"))

    assert on_disk(b"left-on-disk-")
    await eventually(lambda: not on_disk(b"wiped-from-disk-"))


async def test_what_another_client_set_stays_through_an_update(sb):
    api = sb._streams._admin._api
    config = {"name": "S", "subjects": ["s.>"], "allow_batched": True, "discard": "new", "allow_direct": True}
    await api.call("STREAM.CREATE.S", config | {"allow_msg_ttl": True, "allow_atomic": True})
    await sb.declare(StreamOptions("S", ["s.>"], description="ours"), ensure="update")
    answer = await api.call("STREAM.INFO.S")
    assert (answer["config"]["allow_batched"], answer["config"]["description"]) == (True, "ours")


async def test_push_consumers_come_back_and_never_become_pull(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    options = ConsumerOptions(
        durable="pushed",
        stream="S",
        deliver_subject="push.here",
        deliver_group="readers",
        flow_control=True,
        idle_heartbeat=2.5,
        rate_limit=1_000_000,
    )
    assert (await sb.consumers.create(options)).config == options
    assert (await sb.consumers.create(options)).config == options
    with pytest.raises(ConfigDrift) as caught:
        await sb.consumers.update(ConsumerOptions(durable="pushed", stream="S"))
    assert {"deliver_subject", "flow_control"} <= set(caught.value.differences)


async def test_a_pinned_worker_is_told_and_can_be_unpinned(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    options = ConsumerOptions(durable="w", stream="S", priority_policy="pinned_client", priority_groups=["jobs"])
    info = await sb.consumers.create(options)
    assert (info.config.priority_timeout, dict(info.pinned)) == (120.0, {})
    await sb.enqueue("s.a", 1)
    api = sb._streams
    inbox = api.new_inbox()
    interest = await api.subscribe(inbox, lambda _: None, queue=None)
    api.publish("$JS.API.CONSUMER.MSG.NEXT.S.w", b'{"batch":1,"expires":5000000000,"group":"jobs"}', None, inbox)

    async def pinned():
        return dict((await sb.consumers.info("S", "w")).pinned)

    await eventually(pinned)
    assert set(await pinned()) == {"jobs"}
    await sb.consumers.unpin("S", "w", "jobs")
    assert await pinned() == {}
    await interest.stop()


async def test_a_position_goes_with_its_threshold(sb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    await sb.consumers.create(ConsumerOptions(durable="brief", stream="S", inactive_threshold=0.5))

    async def gone():
        return [name async for name in sb.consumers.names("S")] == []

    await eventually(gone, within=20)


ROLES = """
accounts { GAME {
  jetstream: enabled
  users: [
    { user: admin, password: secret-of-admin }
    { user: reader, password: secret-of-reader, permissions: {
        publish: { allow: ["$JS.API.STREAM.MSG.GET.S", "$JS.API.STREAM.INFO.S"] }
        subscribe: { allow: ["_INBOX.>"] } } }
    { user: nobody, password: secret-of-nobody, permissions: {
        publish: { allow: ["s.>"] }
        subscribe: { allow: ["_INBOX.>"] } } }
  ] } }
"""


async def test_a_role_that_may_not_read_directly_reads_through_the_api(link):
    login = {"user": "admin", "pass": "secret-of-admin"}
    async with NatsServer(sync_interval=None, config=ROLES, login=login) as server:
        async with StreamBroker.connect(server.url, user="admin", password="secret-of-admin") as admin:
            await admin.declare(StreamOptions("S", ["s.>"]))
            await admin.enqueue("s.a", 1)
        async with StreamBroker.connect(server.url, user="reader", password="secret-of-reader", link=link) as reader:
            for _ in range(2):
                assert (await reader.streams.get_message("S", 1)).json() == 1
                assert (await reader.streams.get_last("S", "s.*")).json() == 1
                assert [each.json() async for each in reader.streams.get_last_many("S", ["s.*"])] == [1]
                assert [each.json() async for each in reader.streams.get_many("S")] == [1]
        async with StreamBroker.connect(server.url, user="nobody", password="secret-of-nobody", link=link) as nobody:
            await nobody.declare(StreamOptions("S", ["s.>"], max_msgs=5), ensure="bind")
            assert (await nobody.enqueue("s.a", 2)).sequence == 2
            for refused in (
                nobody.declare(StreamOptions("S", ["s.>"])),
                nobody.streams.purge("S"),
                nobody.streams.get_message("S", 1),
                nobody.consumers.pause("S", "w", datetime.now(UTC) + timedelta(seconds=9)),
            ):
                with pytest.raises(PermissionDenied):
                    await refused


async def test_bind_asks_nothing(sb):
    asked = []
    api = sb._streams._admin._api
    call, api.call = api.call, lambda *args, **kwargs: asked.append(args) or call(*args, **kwargs)
    await sb.streams.ensure(StreamOptions("S", ["s.>"]), "bind")
    await sb.consumers.ensure(ConsumerOptions(durable="w", stream="S"), "bind")
    await sb.declare(StreamOptions("S", ["s.>"]), ensure="bind")
    assert asked == []
    await sb.declare(StreamOptions("S", ["s.>"]))
    assert asked


async def test_a_sealed_declaration_of_nothing_is_refused_by_name(sb):
    with pytest.raises(InvalidOption) as caught:
        await sb.streams.create(StreamOptions("S", ["s.>"], sealed=True))
    assert caught.value.option == "sealed"
