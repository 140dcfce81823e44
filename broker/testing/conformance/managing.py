"""Managing streams and their messages: what a declaration may say, what never changes, what reads and removals do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    ApiError,
    ConfigDrift,
    Entry,
    InvalidOption,
    InvalidSubject,
    LimitsExceeded,
    Placement,
    Republish,
    StreamError,
    StreamFull,
    StreamNotFound,
    StreamOptions,
    StreamSource,
    SubjectTransform,
    Unsupported,
)
from broker.contracts.features import ConsumerLimits
from broker.testing.conformance.scene import Conformance, a_stream, arrived, bodies, claims, fresh, listed
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker.testing.conformance.scene import Connect

DECLARED: dict[str, dict[str, Any]] = {
    "discard_new_per_subject": {"discard_new_per_subject": True, "max_msgs_per_subject": 2},
    "max_consumers": {"max_consumers": 3},
    "compression": {"compression": "s2"},
    "allow_direct": {"allow_direct": False},
    "allow_msg_ttl": {"allow_msg_ttl": False},
    "deny_delete": {"deny_delete": True},
    "deny_purge": {"deny_purge": True},
    "allow_rollup": {"allow_rollup": True},
    "persist_mode": {"persist_mode": "async"},
    "first_seq": {"first_seq": 100},
    "consumer_limits": {"consumer_limits": ConsumerLimits(60.0, 500)},
    "atomic": {"atomic": False},
    "schedules": {"schedules": True, "discard": "old"},
    "counters": {"counters": True, "discard": "old"},
    "retention": {"retention": "interest"},
}
"""What is declared comes back, one setting at a time."""

FOR_GOOD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "storage": ({}, {"storage": "memory"}),
    "retention": ({}, {"retention": "workqueue"}),
    "persist_mode": ({"atomic": False}, {"persist_mode": "async"}),
    "first_seq": ({}, {"first_seq": 7}),
    "counters": ({"discard": "old", "allow_msg_ttl": False}, {"counters": True}),
    "schedules": ({"discard": "old", "schedules": True}, {"schedules": False}),
    "allow_msg_ttl": ({}, {"allow_msg_ttl": False}),
    "deny_delete": ({"deny_delete": True}, {"deny_delete": False}),
    "deny_purge": ({"deny_purge": True}, {"deny_purge": False}),
}
"""What no update changes: how it is declared, and the change that is refused."""

ELSEWHERE: dict[str, dict[str, Any]] = {
    "mirror": {"mirror": StreamSource("ORIGIN")},
    "sources": {"sources": [StreamSource("ORIGIN")]},
    "placement": {"subjects": ["placed.>"], "placement": Placement("somewhere")},
}
"""What needs other servers or streams copied between them."""


class ManagedStreamConformance(Conformance):
    """Every setting of a stream, and every verb of ``streams``."""

    @pytest.mark.parametrize("option", DECLARED)
    async def test_what_is_declared_comes_back(self, connect: Connect, option: str) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(name, [f"{name}.>"], **DECLARED[option])
        assert (await sb.streams.create(options)).config == options
        assert (await sb.streams.info(name)).config == options
        await sb.declare(options)

    @pytest.mark.parametrize("option", FOR_GOOD)
    async def test_what_never_changes_is_named_and_nothing_is_changed(self, connect: Connect, option: str) -> None:
        sb, name = await connect(), fresh("stream")
        first, change = FOR_GOOD[option]
        options = StreamOptions(name, [f"{name}.>"], **first)
        await sb.declare(options)
        changed = replace(options, **change, description="more")
        with pytest.raises(ConfigDrift) as caught:
            await sb.declare(changed, ensure="update")
        assert caught.value.differences == {option: (getattr(changed, option), getattr(options, option))}
        assert (await sb.streams.info(name)).config == options

    @pytest.mark.parametrize("option", ELSEWHERE)
    async def test_copies_and_placement_come_back_or_are_refused_by_name(self, connect: Connect, option: str) -> None:
        sb, name = await connect(), fresh("stream")
        await sb.declare(StreamOptions("ORIGIN", ["origin.>"]))
        options = StreamOptions(name, **ELSEWHERE[option])
        if claims(sb).copies_streams:
            await sb.declare(options)
            assert (await sb.streams.info(name)).config == options
            return
        with pytest.raises(Unsupported, match=option):
            await sb.declare(options)
        with pytest.raises(StreamNotFound):
            await sb.streams.info(name)

    async def test_names_and_list_by_subject(self, connect: Connect) -> None:
        sb = await connect()
        names = sorted([await a_stream(sb), await a_stream(sb)])
        assert sorted(await listed(sb.streams.names())) == names
        assert await listed(sb.streams.names(f"{names[1]}.a.*")) == [names[1]]
        assert [info.name for info in await listed(sb.streams.list(f"{names[0]}.>"))] == [names[0]]
        assert await listed(sb.streams.names("nothing.like.it")) == []
        with pytest.raises(InvalidSubject):
            await listed(sb.streams.names("a..b"))

    async def test_find_tells_who_captures_a_subject(self, connect: Connect) -> None:
        sb = await connect()
        name, other = await a_stream(sb), await a_stream(sb)
        assert await sb.streams.find(f"{name}.a") == name
        assert await sb.streams.find(f"{name}.*") == name
        assert await sb.streams.find("nobody.has.this") is None
        with pytest.raises(InvalidOption, match=other):
            await sb.streams.find(">")

    async def test_a_full_subject_refuses_and_the_others_do_not(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_msgs_per_subject=1, discard_new_per_subject=True)
        await sb.enqueue(f"{name}.a", 1)
        with pytest.raises(StreamFull):
            await sb.enqueue(f"{name}.a", 2)
        await sb.enqueue(f"{name}.b", 3)
        assert bodies(await listed(sb.streams.get_last_many(name, [f"{name}.>"]))) == [1, 3]

    async def test_what_is_denied_stays(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, deny_delete=True, deny_purge=True)
        await sb.enqueue(f"{name}.a", 1)
        with pytest.raises(ApiError) as caught:
            await sb.streams.delete_message(name, 1)
        assert caught.value.err_code == 10057
        assert await sb.streams.delete_message(name, 99) is False
        with pytest.raises(ApiError) as caught:
            await sb.streams.purge(name)
        assert caught.value.err_code == 10110
        assert (await sb.streams.info(name)).messages == 1

    async def test_a_sealed_stream_is_read_and_never_changes(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        options = (await sb.streams.info(name)).config
        sealed = replace(options, sealed=True)
        with pytest.raises(ConfigDrift, match="sealed"):
            await sb.declare(sealed)
        assert (await sb.streams.update(sealed)).config == sealed
        await sb.declare(sealed)
        for attempt in (sb.enqueue(f"{name}.a", 2), sb.streams.purge(name), sb.streams.delete_message(name, 1)):
            with pytest.raises(ApiError) as caught:
                await attempt
            assert caught.value.err_code == 10109
        with pytest.raises(ConfigDrift, match="sealed"):
            await sb.streams.update(replace(options, deny_delete=True, deny_purge=True))
        last = await sb.streams.get_last(name, f"{name}.a")
        assert last is not None
        assert last.json() == 1

    async def test_a_stream_is_not_made_sealed(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        with pytest.raises(InvalidOption, match="sealed"):
            await sb.declare(StreamOptions(name, [name], sealed=True))
        with pytest.raises(StreamNotFound):
            await sb.streams.info(name)

    async def test_the_first_sequence_is_the_one_declared(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, first_seq=1000)
        assert (await sb.enqueue(f"{name}.a", 1)).sequence == 1000
        assert (await sb.streams.info(name)).state.first_sequence == 1000

    async def test_purge_leaves_the_newest_of_a_subject(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(10):
            await sb.enqueue(f"{name}.{number % 2}", number)
        assert await sb.streams.purge(name, subject=f"{name}.0", keep=2) == 3
        assert await sb.streams.purge(name, subject=f"{name}.1", up_to=5) == 2
        state = (await sb.streams.info(name)).state
        assert (state.messages, state.subjects, state.deleted) == (5, 2, 0 + 10 - state.first_sequence + 1 - 5)

    async def test_purge_refuses_what_contradicts(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption, match="keep"):
            await sb.streams.purge(name, up_to=2, keep=2)
        for wrong in ({"up_to": 0}, {"keep": -1}, {"keep": True}):
            with pytest.raises(InvalidOption, match=next(iter(wrong))):
                await sb.streams.purge(name, **wrong)

    async def test_an_erased_message_is_gone(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(3):
            await sb.enqueue(f"{name}.a", number)
        assert await sb.streams.delete_message(name, 2, no_erase=False) is True
        assert await sb.streams.delete_message(name, 2, no_erase=False) is False
        assert await sb.streams.get_message(name, 2) is None
        state = (await sb.streams.info(name)).state
        assert (state.messages, state.deleted) == (2, 1)

    @pytest.mark.parametrize("direct", [True, False])
    async def test_reads_are_the_same_with_and_without_direct_access(self, connect: Connect, direct: bool) -> None:  # noqa: FBT001 - a parameter of the test
        sb = await connect()
        name = await a_stream(sb, allow_direct=direct)
        await sb.enqueue(f"{name}.a", {"n": 1}, headers={"Kind": ["x", "y"]})
        await sb.enqueue(f"{name}.b", b"")
        one, last = await sb.streams.get_message(name, 1), await sb.streams.get_last(name, f"{name}.*")
        assert one is not None
        assert last is not None
        assert (one.subject, one.json(), one.headers.get_all("kind"), one.sequence) == (
            f"{name}.a",
            {"n": 1},
            ["x", "y"],
            1,
        )
        assert (last.subject, last.data, last.sequence, last.stream) == (f"{name}.b", b"", 2, name)
        assert await sb.streams.get_message(name, 3) is None
        assert await sb.streams.get_last(name, f"{name}.c") is None
        many = await listed(sb.streams.get_last_many(name, [f"{name}.>", f"{name}.a"]))
        assert {message.subject: message.sequence for message in many} == {f"{name}.a": 1, f"{name}.b": 2}
        assert await listed(sb.streams.get_last_many(name, [f"{name}.c", "other.>"])) == []

    async def test_reads_of_no_stream_are_told(self, connect: Connect) -> None:
        sb = await connect()
        for read in (
            sb.streams.get_message("NOWHERE", 1),
            sb.streams.get_last("NOWHERE", "a"),
            listed(sb.streams.get_last_many("NOWHERE", ["a"])),
            sb.streams.delete_message("NOWHERE", 1),
            sb.streams.purge("NOWHERE"),
        ):
            with pytest.raises(StreamNotFound):
                await read

    async def test_the_last_of_many_comes_page_by_page(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.{number % 700}", number) for number in range(1400))
        last = {message.subject: message.json() async for message in sb.streams.get_last_many(name, [f"{name}.*"])}
        assert last == {f"{name}.{number}": 700 + number for number in range(700)}

    async def test_the_last_of_many_as_of_a_sequence_or_a_time(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(4):
            await sb.enqueue(f"{name}.{number % 2}", number)
        await asyncio.sleep(0.05)
        between = await sb.streams.get_message(name, 4)
        assert between is not None
        moment = between.timestamp + timedelta(milliseconds=20)
        await sb.enqueue(f"{name}.0", 4)
        many = sb.streams.get_last_many
        assert sorted(bodies(await listed(many(name, [f"{name}.*"], up_to_seq=3)))) == [1, 2]
        assert sorted(bodies(await listed(many(name, [f"{name}.*"], up_to_time=moment)))) == [2, 3]
        assert sorted(bodies(await listed(many(name, [f"{name}.*"])))) == [3, 4]

    async def test_the_last_of_many_refuses_what_cannot_be(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        now: Any = datetime.now(UTC)
        for subjects, options, option in (
            ([], {}, "subjects"),
            (f"{name}.a", {}, "subjects"),
            (["a"], {"up_to_seq": 0}, "up_to_seq"),
            (["a"], {"up_to_seq": 1, "up_to_time": now}, "up_to_time"),
            (["a"], {"up_to_time": now.replace(tzinfo=None)}, "up_to_time"),
        ):
            with pytest.raises(InvalidOption) as caught:
                await listed(sb.streams.get_last_many(name, subjects, **options))
            assert caught.value.option == option
        with pytest.raises(InvalidSubject):
            await listed(sb.streams.get_last_many(name, ["a..b"]))

    async def test_subjects_are_rewritten_before_they_are_stored(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        rule = SubjectTransform(f"{name}.*.*", f"{name}.{{{{partition(8,1)}}}}.{{{{wildcard(2)}}}}.{{{{wildcard(1)}}}}")
        await sb.declare(StreamOptions(name, [f"{name}.*.*"], subject_transform=rule))
        for key in "abc":
            await sb.enqueue(f"{name}.{key}.won", key)
        stored = await listed(sb.streams.get_last_many(name, [f"{name}.>"]))
        assert [message.subject for message in stored] == [f"{name}.{lane}.won.{key}" for key, lane in LANES.items()]
        assert (await sb.streams.info(name)).config.subject_transform == rule

    async def test_what_is_stored_is_republished_once(self, connect: Connect) -> None:
        sb, heard, name = await connect(), list[Any](), fresh("stream")
        rule = Republish(f"live.{name}.{{{{wildcard(1)}}}}", f"{name}.*")
        await sb.declare(StreamOptions(name, [f"{name}.>"], republish=rule))
        await sb.subscribe(f"live.{name}.>", heard.append)
        for _ in range(2):
            await sb.enqueue(f"{name}.a", {"n": 1}, idempotency_key="k")
        await sb.enqueue(f"{name}.deep.er", 2)
        await sb.enqueue(f"{name}.b", 3)
        await arrived(heard, 2)
        await never(lambda: len(heard) > 2, during=0.1)
        assert [(message.subject, message.json()) for message in heard] == [
            (f"live.{name}.a", {"n": 1}),
            (f"live.{name}.b", 3),
        ]

    async def test_interest_keeps_only_what_somebody_wants(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb, retention="interest")
        await sb.enqueue(f"{name}.a", "nobody wants it")
        assert (await sb.streams.info(name)).messages == 0
        consumption = await sb.consume(f"{name}.a", seen.append, durable="worker")
        await sb.enqueue(f"{name}.a", "wanted")
        await arrived(seen, 1)
        await consumption.drain()

        async def gone() -> bool:
            return (await sb.streams.info(name)).messages == 0

        await eventually(gone)

    async def test_whose_subjects_are_taken_is_told(self, connect: Connect) -> None:
        sb = await connect()
        name, other = await a_stream(sb), fresh("other")
        await sb.declare(StreamOptions(other, [f"{other}.>"]))
        for refused in (
            lambda: sb.declare(StreamOptions(fresh("new"), [f"{fresh('free')}.a", f"{name}.*.b"])),
            lambda: sb.streams.update(StreamOptions(other, [f"{other}.>", f"{name}.*.b"])),
        ):
            with pytest.raises(ApiError) as caught:
                await refused()
            assert caught.value.err_code == 10065
            for told in (name, f"{name}.>", f"{name}.*.b"):
                assert repr(told) in str(caught.value)

    async def test_a_stream_has_no_more_consumers_than_it_may(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb, max_consumers=1, consumer_limits=ConsumerLimits(max_ack_pending=100))
        with pytest.raises(LimitsExceeded):
            await sb.consume(f"{name}.a", print, durable="greedy", max_ack_pending=101)
        await sb.consume(f"{name}.a", print, durable="first", max_ack_pending=100)
        with pytest.raises(LimitsExceeded) as caught:
            await sb.consume(f"{name}.a", print, durable="second", max_ack_pending=100)
        assert isinstance(caught.value, StreamError)


LANES = {"a": 4, "b": 5, "c": 2}
"""FNV-1a of the key, remainder 8: what a server's ``partition(8,1)`` gives."""
