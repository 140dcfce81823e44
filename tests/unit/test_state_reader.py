"""``StateReader`` when something goes wrong: garbage, a busy room beside a quiet one, the end."""

import logging
from uuid import uuid4

import pytest
import pytest_asyncio

from broker import (
    Broker,
    Unsupported,
)
from broker.testing.waiting import eventually

ROOM = "battle.42.state"


@pytest_asyncio.fixture
async def sb():
    async with Broker.connect(f"memory://{uuid4().hex}") as connected:
        yield connected


class TestReader:
    async def test_it_is_entered_once(self, sb):
        async with sb.watch_state(ROOM) as reader:
            with pytest.raises(Unsupported):
                await reader.__aenter__()
        with pytest.raises(Unsupported):
            await reader.__aenter__()
        assert not sb._roster.drainables

    async def test_what_cannot_be_entered_leaves_nothing_behind(self, sb):
        reader = sb.watch_state(ROOM)
        await sb._backend.close()
        with pytest.raises(Exception, match="closed"):
            await reader.__aenter__()
        assert not sb._roster.drainables
        assert not sb._backend.board._watchers._callbacks

    async def test_garbage_is_logged_once_per_room(self, sb, caplog):
        with caplog.at_level(logging.WARNING, "broker.state"):
            async with sb.watch_state("battle.*.state") as reader:
                for _ in range(3):
                    for number in range(2):
                        await sb.publish(f"battle.{number}.state", b"garbage")
                await eventually(lambda: reader.stats.malformed == 6)
                assert not reader.rooms
        assert [record.args[0] for record in caplog.records] == ["battle.0.state", "battle.1.state"]

    async def test_one_room_does_not_starve_another(self, sb):
        async with sb.watch_state("battle.*.state") as reader:
            busy, calm = sb.state("battle.1.state"), sb.state("battle.2.state")
            busy.tick({})
            calm.tick({})
            for _ in range(5):
                busy.tick({})
            await eventually(lambda: reader.stats.received == 7)
            assert [(await anext(reader)).subject for _ in range(2)] == [busy.subject, calm.subject]
            busy.tick({})
            assert (await anext(reader)).seq == 7

    async def test_publishers_and_readers_leave_the_roster(self, sb):
        async with sb.state(ROOM) as room, sb.watch_state(ROOM) as reader:
            assert sb._roster.drainables == {room, reader}
            await eventually(lambda: len(sb._roster.subscriptions) == 2)
        assert not sb._roster.drainables
        assert not sb._roster.subscriptions

    async def test_a_broker_that_closes_takes_them_along(self, sb):
        room, reader = sb.state(ROOM), await sb.watch_state(ROOM).__aenter__()
        room.tick({})
        await sb.aclose()
        assert not sb._roster.drainables
        assert [update.seq async for update in reader] in ([1], [])


async def test_a_reader_that_was_never_entered_says_so():
    async with Broker.connect("memory://") as broker:
        with pytest.raises(Unsupported, match="was not entered"):
            await anext(broker.watch_state("battle.1.state"))
