"""Streams: what ``declare`` makes of the server, and what the admin verbs do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from broker import (
    ConfigDrift,
    ConsumerNotFound,
    InvalidOption,
    NoStream,
    StreamError,
    StreamFull,
    StreamNotFound,
    StreamOptions,
)
from broker.testing.conformance.scene import Conformance, a_stream, fresh, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker.testing.conformance.scene import Connect


class StreamConformance(Conformance):
    """Promises of ``declare`` and of the stream's own verbs."""

    async def test_declare_creates_what_is_missing(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        await sb.declare(StreamOptions(name, subjects=[f"{name}.>"]))
        info = await sb.streams.info(name)
        assert (info.name, info.messages) == (name, 0)

    async def test_declare_takes_several_streams(self, connect: Connect) -> None:
        sb, one, two = await connect(), fresh("stream"), fresh("stream")
        await sb.declare(StreamOptions(one, subjects=[one]), StreamOptions(two, subjects=[two]))
        assert {one, two} <= set(await listed(sb.streams.names()))

    async def test_declaring_the_same_again_is_fine(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(name, subjects=[f"{name}.>"], max_msgs=10)
        await sb.declare(options)
        await sb.enqueue(f"{name}.a", 1)
        await sb.declare(options)
        await (await connect()).declare(options)
        assert (await sb.streams.info(name)).messages == 1

    async def test_info_tells_what_was_declared(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(
            name,
            subjects=[f"{name}.a.*", f"{name}.b.>"],
            storage="memory",
            max_msgs=1000,
            max_bytes=1 << 20,
            max_age=3600.0,
            max_msgs_per_subject=50,
            max_msg_size=1 << 16,
            duplicate_window=7.5,
            discard="old",
            description="battle results",
            metadata={"owner": "settlement"},
        )
        await sb.declare(options)
        assert (await sb.streams.info(name)).config == options

    async def test_info_tells_the_defaults_too(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(name, subjects=[name])
        await sb.declare(options)
        assert (await sb.streams.info(name)).config == options

    async def test_verify_raises_drift_field_by_field_and_changes_nothing(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        first = StreamOptions(name, subjects=[f"{name}.>"], max_msgs=10)
        await sb.declare(first)
        with pytest.raises(ConfigDrift) as caught:
            await sb.declare(replace(first, max_msgs=20, description="more"))
        assert caught.value.name == name
        assert caught.value.differences == {"max_msgs": (20, 10), "description": ("more", "")}
        assert (await sb.streams.info(name)).config == first

    @pytest.mark.parametrize(("discard", "kept"), [("new", 4), ("old", 2)])
    @pytest.mark.parametrize("limit", [{"max_msgs": 2}, {"max_bytes": 2600}], ids=["messages", "bytes"])
    async def test_lower_limits_remove_only_what_the_stream_may_discard(
        self, connect: Connect, limit: dict[str, Any], discard: Literal["new", "old"], kept: int
    ) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(name, [f"{name}.>"], discard=discard)
        await sb.declare(options)
        for number in range(4):
            await sb.enqueue(f"{name}.{number}", b"x" * 1000)
        info = await sb.streams.update(replace(options, **limit))
        assert (info.messages, (await sb.streams.info(name)).messages) == (kept, kept)
        if discard == "new":
            with pytest.raises(StreamFull):
                await sb.enqueue(f"{name}.a", b"x" * 1000)

    async def test_a_lower_limit_of_a_subject_removes_its_oldest(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(name, [f"{name}.>"], discard="new")
        await sb.declare(options)
        for number in range(6):
            await sb.enqueue(f"{name}.{number % 2}", number)
        await sb.streams.update(replace(options, max_msgs_per_subject=1))
        assert (await sb.streams.info(name)).messages == 2

    async def test_what_is_missing_or_full_bears_the_servers_numbers(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        with pytest.raises(StreamNotFound) as missing:
            await sb.streams.info(name)
        assert (missing.value.code, missing.value.err_code) == (404, 10059)
        await sb.declare(StreamOptions(name, [f"{name}.>"], max_msgs=1))
        with pytest.raises(ConsumerNotFound) as gone:
            await sb.consumers.info(name, "nobody")
        assert (gone.value.code, gone.value.err_code) == (404, 10014)
        await sb.enqueue(f"{name}.a", 1)
        with pytest.raises(StreamFull) as full:
            await sb.enqueue(f"{name}.a", 2)
        assert (full.value.code, full.value.err_code) == (503, 10077)

    async def test_update_brings_the_server_in_line(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        first = StreamOptions(name, subjects=[f"{name}.>"], max_msgs=10)
        second = replace(first, subjects=[f"{name}.>", f"{name}x"], max_msgs=20, discard="old")
        await sb.declare(first)
        await sb.enqueue(f"{name}.a", 1)
        await sb.declare(second, ensure="update")
        info = await sb.streams.info(name)
        assert (info.config, info.messages) == (second, 1)

    async def test_update_creates_what_is_missing(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        await sb.declare(StreamOptions(name, subjects=[name]), ensure="update")
        assert (await sb.streams.info(name)).name == name

    async def test_bind_creates_nothing(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        await sb.declare(StreamOptions(name, subjects=[name]), ensure="bind")
        with pytest.raises(StreamNotFound):
            await sb.streams.info(name)

    async def test_an_unknown_ensure_is_refused(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        with pytest.raises(InvalidOption):
            await sb.declare(StreamOptions(name, subjects=[name]), ensure="maybe")  # type: ignore[arg-type]  # the case

    async def test_two_streams_cannot_capture_the_same_subject(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(StreamError):
            await sb.declare(StreamOptions(fresh("stream"), subjects=[f"{name}.a"]))

    async def test_create_is_fine_when_it_exists_exactly_so_and_drift_otherwise(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(name, subjects=[name])
        assert (await sb.streams.create(options)).config == options
        assert (await sb.streams.create(options)).config == options
        with pytest.raises(ConfigDrift):
            await sb.streams.create(replace(options, max_msgs=1))

    async def test_update_of_a_stream_changes_it_or_says_there_is_none(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        options = StreamOptions(name, subjects=[name])
        with pytest.raises(StreamNotFound):
            await sb.streams.update(options)
        await sb.streams.create(options)
        changed = replace(options, max_msgs=5)
        assert (await sb.streams.update(changed)).config == changed

    async def test_names_and_list_give_every_stream(self, connect: Connect) -> None:
        sb = await connect()
        assert await listed(sb.streams.names()) == []
        made = sorted([await a_stream(sb) for _ in range(5)])
        assert sorted(await listed(sb.streams.names())) == made
        assert sorted(info.name for info in await listed(sb.streams.list())) == made

    async def test_a_deleted_stream_is_gone_with_its_messages(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        await sb.streams.delete(name)
        with pytest.raises(StreamNotFound):
            await sb.streams.info(name)
        with pytest.raises(NoStream):
            await sb.enqueue(f"{name}.a", 1)

    async def test_deleting_what_is_not_there_says_so(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(StreamNotFound) as caught:
            await sb.streams.delete("nowhere")
        assert caught.value.stream == "nowhere"

    async def test_purge_removes_and_counts(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(10):
            await sb.enqueue(f"{name}.{number % 2}", number)
        assert await sb.streams.purge(name, subject=f"{name}.1") == 5
        assert await sb.streams.purge(name, keep=2) == 3
        assert (await sb.streams.info(name)).messages == 2
        assert await sb.streams.purge(name) == 2
        state = (await sb.streams.info(name)).state
        assert (state.messages, state.last_sequence, state.first_sequence) == (0, 10, 11)

    async def test_purge_up_to_leaves_that_sequence(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(5):
            await sb.enqueue(f"{name}.a", number)
        assert await sb.streams.purge(name, up_to=4) == 3
        assert (await sb.streams.info(name)).state.first_sequence == 4

    async def test_a_purge_past_the_end_says_what_comes_next(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", seen.append, durable="worker")
        for number in range(3):
            await sb.enqueue(f"{name}.a", number)
        assert await sb.streams.purge(name, subject=f"{name}.b", up_to=50) == 0
        assert await sb.streams.purge(name, up_to=50) == 3
        state = (await sb.streams.info(name)).state
        assert (state.messages, state.first_sequence, state.last_sequence) == (0, 50, 49)
        assert (await sb.enqueue(f"{name}.a", "next")).sequence == 50
        await eventually(lambda: bool(seen) and seen[-1].sequence == 50)

    async def test_get_message_by_sequence(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", {"n": 1}, headers={"Kind": "test"})
        stored = await sb.streams.get_message(name, 1)
        assert stored is not None
        assert (stored.subject, stored.json(), stored.stream, stored.sequence) == (f"{name}.a", {"n": 1}, name, 1)
        assert stored.headers["Kind"] == "test"
        assert await sb.streams.get_message(name, 2) is None

    async def test_get_last_of_a_subject(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(6):
            await sb.enqueue(f"{name}.{number % 2}", number)
        last = await sb.streams.get_last(name, f"{name}.0")
        assert last is not None
        assert (last.sequence, last.json()) == (5, 4)
        assert await sb.streams.get_last(name, f"{name}.none") is None

    async def test_delete_message_removes_one(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for number in range(3):
            await sb.enqueue(f"{name}.a", number)
        assert await sb.streams.delete_message(name, 2) is True
        assert await sb.streams.delete_message(name, 2) is False
        assert await sb.streams.get_message(name, 2) is None
        assert (await sb.streams.info(name)).messages == 2

    async def test_state_counts_messages_and_sequences(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        empty = (await sb.streams.info(name)).state
        assert (empty.messages, empty.bytes, empty.last_sequence, empty.consumers) == (0, 0, 0, 0)
        for number in range(3):
            await sb.enqueue(f"{name}.a", number)
        state = (await sb.streams.info(name)).state
        assert (state.messages, state.first_sequence, state.last_sequence) == (3, 1, 3)
        assert state.bytes > 0
