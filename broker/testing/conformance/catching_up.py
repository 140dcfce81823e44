"""Readers of the state channel that missed something: whatever it was, they end in their room's state, and know it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import InvalidOption
from broker.testing.conformance.scene import Conformance, arrived, fresh
from broker.testing.conformance.state import EPOCH, KIND, SENT, SEQ, a_battle, listening, update_of
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Message, StatePublisher, StreamBroker
    from broker.testing.conformance.scene import Connect


async def relayed(sb: StreamBroker, room: StatePublisher, subject: str, passes: Callable[[list[Any]], bool]) -> None:
    """The room under another subject, on a bad line: only some frames pass. Snapshots do."""

    def relay(msg: Message) -> None:
        if passes(msg.json()):
            sb.publish_nowait(subject, msg.data)

    async def ask(msg: Message) -> bytes:
        return (await sb.request(room.snapshot_subject, msg.data)).data

    await sb.subscribe(room.subject, relay)
    await sb.respond(f"{subject}.snapshot", ask)
    await listening(sb, room)


class CatchUpConformance(Conformance):
    """Promises of ``watch_state`` to those who came late, lost frames or changed owners."""

    async def test_a_late_joiner_has_the_state_without_another_tick(self, connect: Connect) -> None:
        room, player, subject, battle = await connect(), await connect(), fresh("battle"), a_battle()
        publisher = room.state(subject)
        publisher.tick(battle)
        battle["ann"]["hp"] = 1
        publisher.tick(battle)
        await listening(player, publisher)
        async with player.watch_state(subject) as reader:
            update = await update_of(reader)
            assert (update.state, update.seq, reader.snapshots_asked) == (battle, 2, 1)
            assert reader.stats.received == 0

    async def test_a_crowd_that_joins_is_answered_and_gets_few_key_frames(self, connect: Connect) -> None:
        room, player, subject, frames = await connect(), await connect(), fresh("battle"), list[Any]()
        await player.subscribe(subject, lambda msg: frames.append(msg.json()))
        publisher = room.state(subject, keyframe_every=1000)
        publisher.tick(a_battle())
        await listening(player, publisher)
        for _ in range(20):
            await player.request(publisher.snapshot_subject, b"")
            publisher.tick(a_battle())
        await arrived(frames, 21)
        # Two a second at most, however long this takes on a busy machine.
        took = (frames[-1][SENT] - frames[0][SENT]) / 1e6
        assert 1 <= [frame[KIND] for frame in frames].count("K") <= 2 + took * 2

    async def test_a_room_before_its_first_tick_has_nothing_to_tell(self, connect: Connect) -> None:
        room, player, subject = await connect(), await connect(), fresh("battle")
        publisher = room.state(subject)
        await listening(player, publisher)
        async with player.watch_state(subject) as reader:
            await eventually(lambda: player.stats.requests and reader.snapshots_asked)
            await never(lambda: reader.state, during=0.05)
            publisher.tick(a_battle())
            assert (await update_of(reader)).state == a_battle()

    async def test_a_room_that_nobody_hosts_is_waited_for(self, connect: Connect) -> None:
        player, subject = await connect(), fresh("battle")
        async with asyncio.timeout(5), player.watch_state(subject) as reader:
            assert (reader.state, reader.room.age, reader.room.complete) == (None, float("inf"), False)
            assert not reader.rooms

    async def test_an_event_outlives_the_frame_it_came_with(self, connect: Connect) -> None:
        sb, subject, line, kill = await connect(), fresh("battle"), fresh("line"), {"kill": "bob"}
        publisher = sb.state(subject)
        await relayed(sb, publisher, line, lambda frame: frame[SEQ] != 2)
        async with sb.watch_state(line) as reader:
            publisher.tick(a_battle())
            publisher.tick(a_battle(), [kill])
            kill["kill"] = "changed since"
            publisher.tick(a_battle())
            await eventually(lambda: reader.room.seq == 3)
            update = await update_of(reader)
            assert [(event.id, event.tick, event.body) for event in update.events] == [(1, 2, {"kill": "bob"})]
            assert (update.lost, update.events_lost) == (1, 0)

    async def test_events_that_no_frame_carried_any_more_are_counted(self, connect: Connect) -> None:
        sb, subject, line = await connect(), fresh("battle"), fresh("line")
        publisher = sb.state(subject, keep_events=3)
        await relayed(sb, publisher, line, lambda frame: frame[SEQ] in {1, 11})
        async with sb.watch_state(line) as reader:
            for tick in range(1, 12):
                publisher.tick(a_battle(), [tick])
            await eventually(lambda: reader.room.seq == 11)
            update = await update_of(reader)
            assert [event.body for event in update.events] == [1, 9, 10, 11]
            assert (update.events_lost, update.lost) == (7, 9)

    async def test_lost_deltas_do_not_matter_and_are_counted(self, connect: Connect) -> None:
        sb, subject, line, battle = await connect(), fresh("battle"), fresh("line"), a_battle()
        publisher = sb.state(subject)
        await relayed(sb, publisher, line, lambda frame: frame[SEQ] in {1, 3, 9})
        async with sb.watch_state(line) as reader:
            for step in range(9):
                battle["ann"]["x"] = float(step)
                publisher.tick(battle)
            await eventually(lambda: reader.room.seq == 9)
            assert (reader.state, reader.stats.lost, reader.room.complete) == (battle, 6, True)

    async def test_a_lost_key_frame_is_asked_for(self, connect: Connect) -> None:
        sb, subject, line, battle = await connect(), fresh("battle"), fresh("line"), a_battle()
        publisher = sb.state(subject, keyframe_every=3)
        await relayed(sb, publisher, line, lambda frame: frame[SEQ] != 4)
        async with sb.watch_state(line) as reader:
            await eventually(lambda: reader.snapshots_asked)
            for step in range(6):
                battle["ann"]["x"] = float(step)
                publisher.tick(battle)
            await eventually(lambda: reader.room.seq == 6)
            assert (reader.state, reader.room.complete, reader.stats.lost) == (battle, True, 1)

    async def test_without_answers_the_next_key_frame_heals(self, connect: Connect) -> None:
        sb, subject, line, battle, frames = await connect(), fresh("battle"), fresh("line"), a_battle(), list[Any]()
        await sb.subscribe(subject, frames.append)
        publisher = sb.state(subject, keyframe_every=3)
        async with sb.watch_state(line) as reader:
            for step in range(7):
                battle["ann"]["x"] = float(step)
                publisher.tick(battle)
            await arrived(frames, 7)
            for frame in (*frames[:3], *frames[4:6]):  # without the second key frame
                sb.publish_nowait(line, frame.data)
            await eventually(lambda: reader.stats.received == 5)
            assert (reader.room.seq, reader.state["ann"]["x"], reader.room.complete) == (3, 2.0, False)
            sb.publish_nowait(line, frames[6].data)
            await eventually(lambda: reader.room.seq == 7)
            assert (reader.state, reader.room.complete) == (battle, True)

    async def test_repeated_and_late_frames_are_ignored(self, connect: Connect) -> None:
        sb, subject, line, battle, frames = await connect(), fresh("battle"), fresh("line"), a_battle(), list[Any]()
        await sb.subscribe(subject, frames.append)
        publisher = sb.state(subject, keyframe_every=2)
        for step in range(4):
            battle["ann"]["x"] = float(step)
            publisher.tick(battle)
        await arrived(frames, 4)
        async with sb.watch_state(line) as reader:
            for index in (0, 2, 3, 3, 1, 2, 0):
                sb.publish_nowait(line, frames[index].data)
            await eventually(lambda: reader.stats.received == 7)
            assert (reader.stats.stale, reader.stats.lost) == (4, 1)
            assert (reader.state, reader.room.seq) == (battle, 4)

    async def test_a_later_owner_replaces_an_earlier_one_for_good(self, connect: Connect) -> None:
        first, second, player, subject = await connect(), await connect(), await connect(), fresh("battle")
        async with player.watch_state(subject) as reader:
            old, new = first.state(subject, epoch=1), second.state(subject, epoch=2)
            old.tick({"owner": "old"})
            await eventually(lambda: reader.state == {"owner": "old"})
            new.tick({"owner": "new"})
            await eventually(lambda: reader.state == {"owner": "new"})
            for _ in range(5):
                old.tick({"owner": "old"})
            await eventually(lambda: reader.stats.stale == 5)
            assert (reader.state, reader.room.epoch, reader.stats.lost) == ({"owner": "new"}, 2, 0)

    async def test_a_fenced_owner_does_not_answer_who_knows_better(self, connect: Connect) -> None:
        sb, subject, answers = await connect(), fresh("battle"), list[Any]()
        publisher = sb.state(subject, epoch=1)
        publisher.tick({"owner": "old"})
        await listening(sb, publisher)
        for epoch, patience, most in ((2, 0.3, None), (1, 5, 1), (0, 5, 1)):
            asked = sb.request_many(publisher.snapshot_subject, [1, epoch], timeout=patience, max_replies=most)
            answers.append([msg.json() async for msg in asked])
        assert [len(each) for each in answers] == [0, 1, 1]

    async def test_a_new_epoch_of_the_same_owner_begins_with_a_key_frame(self, connect: Connect) -> None:
        sb, subject, frames = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, lambda msg: frames.append(msg.json()))
        publisher = sb.state(subject, epoch=1)
        for epoch in (1, 1, 2, 2):
            publisher.epoch = epoch
            publisher.tick(a_battle())
        await arrived(frames, 4)
        assert [(frame[KIND], frame[EPOCH], frame[SEQ]) for frame in frames] == [
            ("K", 1, 1), ("D", 1, 2), ("K", 2, 3), ("D", 2, 4)
        ]  # fmt: skip
        with pytest.raises(InvalidOption):
            publisher.epoch = 1

    async def test_a_restarted_publisher_is_followed_under_the_same_epoch(self, connect: Connect) -> None:
        host, player, subject = await connect(), await connect(), fresh("battle")
        async with player.watch_state(subject) as reader:
            async with host.state(subject) as publisher:
                for _ in range(50):
                    publisher.tick({"run": 1}, ["first"])
            await eventually(lambda: reader.room.seq == 50)
            host.state(subject).tick({"run": 2}, ["again"])
            await eventually(lambda: reader.state == {"run": 2})
            assert reader.room.seq == 1
            assert [event.body for event in (await update_of(reader)).events][-2:] == ["first", "again"]

    @pytest.mark.parametrize("garbage", [b"\xff\x00", b"", b"{}", b"[]", b'[2,"K",0,1,1,1,1,1,0,[],{}]', b"null"])
    async def test_what_is_no_frame_is_counted_and_costs_nothing_else(self, connect: Connect, garbage: bytes) -> None:
        room, player, subject = await connect(), await connect(), fresh("battle")
        async with player.watch_state(subject) as reader:
            publisher = room.state(subject)
            publisher.tick(a_battle())
            await room.publish(subject, garbage)
            publisher.tick(a_battle())
            await eventually(lambda: reader.stats.received == 3)
            assert (reader.stats.malformed, reader.stats.lost, reader.room.seq) == (1, 0, 2)
            assert player.stats.handler_errors == 0
