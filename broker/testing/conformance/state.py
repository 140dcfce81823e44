"""The state channel: the newest state of a room, whole, whatever was lost on the way; and every event once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    BrokerClosed,
    BytesCodec,
    EncodeError,
    InvalidOption,
    InvalidSubject,
    MsgpackCodec,
    NoResponders,
    PayloadTooLarge,
    RequestError,
    Unsupported,
)
from broker.testing.conformance.scene import Conformance, arrived, fresh
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker import StatePublisher, StateReader, StateUpdate, StreamBroker
    from broker.testing.conformance.scene import Connect

KIND, EPOCH, SEQ, BASE, SENT = 1, 2, 4, 6, 7
"""Places in a frame as it goes over the wire."""


def a_battle() -> dict[str, dict[str, Any]]:
    """A state: entities with fields."""
    return {"ann": {"x": 1.5, "hp": 100, "bag": ["sword"]}, "bob": {"x": -2.5, "hp": 80, "bag": []}}


async def listening(sb: StreamBroker, room: StatePublisher) -> None:
    """Wait until the room answers its readers."""

    async def answered() -> bool:
        try:
            await sb.request(room.snapshot_subject, b"", timeout=0.5)
        except RequestError:  # nobody, or only a reader of everything
            return False
        return True

    await eventually(answered)


async def update_of(reader: StateReader) -> StateUpdate:
    """The next update, in time or not at all."""
    async with asyncio.timeout(5):
        return await anext(reader)


class StateConformance(Conformance):
    """Promises of ``state`` and ``watch_state``."""

    async def test_a_reader_sees_the_state(self, connect: Connect) -> None:
        room, player, subject = await connect(), await connect(), fresh("battle")
        async with player.watch_state(subject) as reader:
            room.state(subject, epoch=3).tick(a_battle(), number=7)
            update = await update_of(reader)
            assert (update.subject, update.state) == (subject, a_battle())
            assert (update.tick, update.epoch, update.seq, update.lost, update.superseded) == (7, 3, 1, 0, 0)
            assert reader.state == a_battle()
            assert (reader.room.tick, reader.room.epoch, reader.room.seq, reader.room.complete) == (7, 3, 1, True)
            assert 0 <= reader.room.age < 60
            assert 0 <= reader.room.silence < 60

    async def test_what_changes_in_place_between_ticks_arrives(self, connect: Connect) -> None:
        room, player, subject, battle = await connect(), await connect(), fresh("battle"), a_battle()
        async with player.watch_state(subject) as reader:
            publisher = room.state(subject)
            publisher.tick(battle)
            battle["ann"]["hp"] = 70
            battle["ann"]["bag"].append("shield")
            publisher.tick(battle)
            await eventually(lambda: reader.room.seq == 2)
            assert reader.state == battle
            battle["ann"]["hp"] = 100
            battle["ann"]["bag"].pop()
            publisher.tick(battle)
            await eventually(lambda: reader.room.seq == 3)
            assert reader.state == a_battle()

    async def test_what_is_removed_disappears(self, connect: Connect) -> None:
        room, player, subject, battle = await connect(), await connect(), fresh("battle"), a_battle()
        async with player.watch_state(subject) as reader:
            publisher = room.state(subject)
            publisher.tick(battle)
            del battle["bob"], battle["ann"]["bag"]
            battle["cid"] = {"x": 0.0}
            publisher.tick(battle)
            await eventually(lambda: reader.room.seq == 2)
            assert reader.state == battle

    async def test_between_key_frames_only_what_changed_is_sent(self, connect: Connect) -> None:
        sb, subject, battle, frames = await connect(), fresh("battle"), a_battle(), list[Any]()
        await sb.subscribe(subject, lambda msg: frames.append(msg.json()))
        publisher = sb.state(subject, keyframe_every=4)
        for step in range(9):
            battle["ann"]["x"] = float(step)
            publisher.tick(battle)
        await arrived(frames, 9)
        assert [frame[KIND] for frame in frames] == list("KDDDKDDDK")
        assert [frame[BASE] for frame in frames] == [1, 1, 1, 1, 5, 5, 5, 5, 9]
        assert frames[1][-1] == [{}, {"ann": {"x": 1.0}}, [], {}]

    @pytest.mark.parametrize("state", [[1, 2], "word", 7, None], ids=["list", "text", "number", "nothing"])
    async def test_a_state_that_is_no_mapping_is_sent_whole(self, connect: Connect, state: Any) -> None:
        room, player, subject = await connect(), await connect(), fresh("battle")
        async with player.watch_state(subject) as reader:
            publisher = room.state(subject)
            publisher.tick({"ann": {}})
            publisher.tick(state)
            await eventually(lambda: reader.room.seq == 2)
            assert reader.state == state
            publisher.tick({"ann": {}})
            await eventually(lambda: reader.room.seq == 3)
            assert reader.state == {"ann": {}}

    async def test_a_reader_that_slept_reads_the_newest_next(self, connect: Connect) -> None:
        room, player, subject, battle = await connect(), await connect(), fresh("battle"), a_battle()
        async with player.watch_state(subject) as reader:
            publisher = room.state(subject)
            for step in range(100):
                battle["ann"]["x"] = float(step)
                publisher.tick(battle)
            await eventually(lambda: reader.stats.received == 100)
            update = await update_of(reader)
            assert (update.seq, update.state, update.superseded, update.lost) == (100, battle, 99, 0)
            assert (reader.stats.superseded, reader.stats.lost, player.stats.dropped_inbound) == (99, 0, 0)

    async def test_a_pattern_reads_the_newest_of_each_room(self, connect: Connect) -> None:
        host, player, root = await connect(), await connect(), fresh("battle")
        async with player.watch_state(f"{root}.*.state") as reader:
            rooms = [host.state(f"{root}.{number}.state") for number in range(5)]
            for step in range(10):
                for number, room in enumerate(rooms):
                    room.tick({"ann": {"x": step, "room": number}})
            await eventually(lambda: reader.stats.received == 50)
            updates = [await update_of(reader) for _ in range(5)]
            assert [update.subject for update in updates] == [room.subject for room in rooms]
            assert [update.state["ann"] for update in updates] == [{"x": 9, "room": number} for number in range(5)]
            assert {subject: view.tick for subject, view in reader.rooms.items()} == {r.subject: 10 for r in rooms}
            with pytest.raises(Unsupported, match=r"reader\.rooms"):
                assert reader.state

    async def test_a_pattern_over_everything_does_not_mind_the_questions(self, connect: Connect) -> None:
        host, player, root = await connect(), await connect(), fresh("battle")
        async with player.watch_state(f"{root}.>") as reader:
            publisher = host.state(f"{root}.42.state")
            publisher.tick(a_battle())
            await listening(player, publisher)
            await eventually(lambda: reader.stats.received == 1)
            assert (reader.stats.malformed, list(reader.rooms)) == (0, [publisher.subject])

    async def test_rooms_beyond_the_limit_push_out_the_silent_ones(self, connect: Connect) -> None:
        host, player, root = await connect(), await connect(), fresh("battle")
        async with player.watch_state(f"{root}.*", rooms_limit=3) as reader:
            for number in range(5):
                host.state(f"{root}.{number}").tick({"ann": {}})
            await eventually(lambda: reader.stats.received == 5)
            assert list(reader.rooms) == [f"{root}.{number}" for number in (2, 3, 4)]
            assert reader.rooms_dropped == 2
            reader.forget(f"{root}.3")
            assert list(reader.rooms) == [f"{root}.{number}" for number in (2, 4)]
            assert [(await update_of(reader)).subject for _ in range(2)] == list(reader.rooms)

    async def test_events_are_read_once_and_in_order(self, connect: Connect) -> None:
        room, player, subject, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        async with player.watch_state(subject) as reader:
            publisher = room.state(subject)
            for tick in range(1, 41):
                publisher.tick(a_battle(), [{"kill": tick}])
                if tick % 7 == 0:
                    await eventually(lambda: reader.room.seq == publisher.seq)
                    seen += (await update_of(reader)).events
            await eventually(lambda: reader.room.seq == 40)
            seen += (await update_of(reader)).events
            assert [event.body for event in seen] == [{"kill": tick} for tick in range(1, 41)]
            assert [event.id for event in seen] == [event.tick for event in seen] == list(range(1, 41))
            assert reader.stats.events_lost == 0

    async def test_it_speaks_other_codecs(self, connect: Connect) -> None:
        room, player, subject = await connect(codec=MsgpackCodec()), await connect(codec=MsgpackCodec()), fresh("b")
        async with player.watch_state(subject) as reader:
            publisher = room.state(subject)
            publisher.tick({1: {"skin": b"\x00", "x": 0}})
            publisher.tick({1: {"skin": b"\x00", "x": 1}, 2: {}}, [b"hit"])
            await eventually(lambda: reader.room.seq == 2)
            assert reader.state == {1: {"skin": b"\x00", "x": 1}, 2: {}}
            assert (await update_of(reader)).events[0].body == b"hit"

    async def test_a_cancelled_read_loses_nothing(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        async with sb.watch_state(subject) as reader:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await anext(reader)
            sb.state(subject).tick(a_battle(), ["kept"])
            assert [event.body for event in (await update_of(reader)).events] == ["kept"]

    @pytest.mark.parametrize("ending", ["reader", "aclose", "drain"])
    async def test_reading_ends_with_the_reader_and_with_the_broker(self, connect: Connect, ending: str) -> None:
        host, player, subject, seen = await connect(), await connect(), fresh("battle"), list[Any]()

        async def read(reader: StateReader) -> None:
            async for update in reader:
                seen.append(update.seq)

        async with player.watch_state(subject) as reader:
            reading = asyncio.create_task(read(reader))
            host.state(subject).tick(a_battle())
            await eventually(lambda: seen == [1])
            await (reader.aclose() if ending == "reader" else getattr(player, ending)())
            async with asyncio.timeout(5):
                await reading
            assert reader.state == a_battle()

    async def test_a_closed_publisher_is_silent(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        async with sb.state(subject) as publisher:
            publisher.tick(a_battle())
            await listening(sb, publisher)
        await publisher.aclose()
        with pytest.raises(BrokerClosed, match=subject) as caught:
            publisher.tick(a_battle())
        assert caught.value.subject == subject
        with pytest.raises(NoResponders):
            await sb.request(publisher.snapshot_subject, b"")

    async def test_a_closed_broker_has_no_state_channel(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        publisher, reader = sb.state(subject), sb.watch_state(subject)
        await sb.aclose()
        for make in (sb.state, sb.watch_state):
            with pytest.raises(BrokerClosed):
                make(subject)
        with pytest.raises(BrokerClosed, match=subject):
            publisher.tick(a_battle())
        with pytest.raises(BrokerClosed):
            await reader.__aenter__()

    async def test_a_tick_that_cannot_be_sent_changes_nothing(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        async with sb.watch_state(subject) as reader:
            publisher = sb.state(subject)
            publisher.tick(a_battle())
            cases: tuple[tuple[Any, Any, type[Exception]], ...] = (
                ({"ann": {"x": object()}}, (), EncodeError),
                (a_battle(), [object()], EncodeError),
                ({"ann": {"x": "x" * (64 << 20)}}, (), PayloadTooLarge),
                (a_battle(), "kill", InvalidOption),
                (a_battle(), {"kill": 1}, InvalidOption),
                (a_battle(), 5, InvalidOption),
                (a_battle(), None, InvalidOption),
            )
            for state, events, error in cases:
                with pytest.raises(error):
                    publisher.tick(state, events)
            publisher.tick({"ann": {"x": 2}})
            await eventually(lambda: reader.room.seq == 2)
            assert (reader.state, reader.stats.lost, reader.stats.events_lost) == ({"ann": {"x": 2}}, 0, 0)

    @pytest.mark.parametrize(
        ("state", "events", "error", "words"),
        [
            ({"ann": {"x": 1, "bag": object()}}, (), EncodeError, "entity 'ann', field 'bag'"),
            ({"ann": {}, "bob": {(1, 2): 3}}, (), EncodeError, r"entity 'bob', the name of field \(1, 2\)"),
            ({("a", 1): {}}, (), EncodeError, r"the id of entity \('a', 1\)"),
            ({"ann": object()}, (), EncodeError, "entity 'ann': "),
            (object(), (), EncodeError, "object"),
            ({}, ["fine", object()], EncodeError, r"events\[1\]"),
            ({}, "kill", InvalidOption, "events"),
            ({"ann": {}, "bob": {"x": 0, "log": "x" * (64 << 20)}}, (), PayloadTooLarge, "entity 'bob' .*field 'log'"),
            ({"ann": {"x": 0}}, ["x" * (64 << 20)], PayloadTooLarge, "longest part is the events"),
            (["x" * (64 << 20)], (), PayloadTooLarge, "longest part is the state"),
        ],
        ids=[
            "field",
            "field-name",
            "id",
            "entity",
            "state",
            "event",
            "events",
            "long-field",
            "long-event",
            "long-state",
        ],
    )
    async def test_a_tick_that_is_refused_names_the_room_and_what_is_wrong(
        self, connect: Connect, state: Any, events: Any, error: type[Exception], words: str
    ) -> None:
        sb, subject = await connect(), fresh("battle")
        publisher = sb.state(subject)
        for _ in range(2):  # as a key frame, and on one
            with pytest.raises(error, match=words) as caught:
                publisher.tick(state, events)
            assert subject in str(caught.value)
            assert len(str(caught.value)) < 1000
            publisher.tick({"ann": {}})

    async def test_a_subject_without_room_for_questions_is_named_as_it_was_given(self, connect: Connect) -> None:
        sb, longest = await connect(), fresh("battle").ljust(503, "x")
        for make in (sb.state, sb.watch_state):
            make(longest)
            with pytest.raises(InvalidSubject, match="over 503 bytes") as caught:
                make(f"{longest}x")
            assert caught.value.subject == f"{longest}x"
        sb.watch_state(f"{longest[:-4]}.*")

    async def test_a_room_whose_entities_are_all_replaced_is_sent_even_when_the_delta_is_too_long(
        self, connect: Connect
    ) -> None:
        room, player, subject = await connect(), await connect(), fresh("battle")
        longest = (1 << 20) * 2 // 3  # of what a server takes, if it is not told otherwise
        async with player.watch_state(subject) as reader:
            publisher = room.state(subject)
            publisher.tick({"a" * (longest // 2): {"x": "x" * (longest // 2)}})
            for step in range(2, 5):
                battle = {"b" * (longest // 2): {"x": "x" * (longest // 2), "step": step}}
                publisher.tick(battle, [step])
                await eventually(lambda: reader.state == battle)  # noqa: B023 - awaited within the turn of the loop
            assert [event.body for event in (await update_of(reader)).events] == [2, 3, 4]

    async def test_bad_input_is_refused_at_once(self, connect: Connect) -> None:
        sb = await connect()
        for bad in ("", "a b", "a.*", "a.>", "a" * 510):
            with pytest.raises(InvalidSubject):
                sb.state(bad)
        with pytest.raises(InvalidSubject):
            sb.watch_state("a..b")
        options: list[dict[str, Any]] = [{"keyframe_every": 0}, {"epoch": -1}, {"epoch": 1.5}, {"keep_events": -1}]
        for option in options:
            with pytest.raises(InvalidOption, match=next(iter(option))):
                sb.state("a", **option)
        with pytest.raises(InvalidOption, match="rooms_limit"):
            sb.watch_state("a", rooms_limit=0)
        with pytest.raises(InvalidOption, match="number"):
            sb.state("a").tick({}, number=-1)
        mute = await connect(codec=BytesCodec())
        for make in (mute.state, mute.watch_state):
            with pytest.raises(EncodeError):
                make("a")
