"""SIGSTOP: the server is there and answers nothing. A game loop must not feel it."""

import asyncio

import pytest

from broker.testing.waiting import eventually
from loadtest.freeze import measure

pytestmark = [pytest.mark.nats, pytest.mark.fault]

SIZE = 10_000
LIMIT = 256 << 10


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_a_game_loop_does_not_feel_it(server, link):
    """Ten times the figures that ``python -m loadtest.freeze`` is held to: this machine may be busy."""
    felt = await measure(server, link=link, seconds=7.5, size=SIZE, outbound_limit=LIMIT)
    assert felt.worst_call < 0.05
    assert felt.lag(0.999) < 0.2
    assert felt.grown < 32 << 20
    assert felt.left_after is not None
    assert felt.dropped > 0
    assert 0 <= felt.unknown < felt.published - felt.dropped
    assert felt.resumed_after < 20


async def test_when_it_goes_on_in_time_every_message_is_received_or_counted(server, connect):
    async with connect(outbound_limit=LIMIT) as room, connect() as player:
        seen, total = [], 3_000
        await player.subscribe("battle.42.state", lambda msg: seen.append(int(msg.data)))
        await server.freeze()
        for number in range(total):
            room.publish_nowait("battle.42.state", b"%*d" % (SIZE, number))
            if number % 10 == 9:
                await asyncio.sleep(0)
        await server.thaw()
        await eventually(lambda: seen and seen[-1] == total - 1, within=10)
        dropped = room.stats.dropped_outbound
        assert dropped > 0
        assert len(seen) + dropped == total == room.stats.published
        assert seen == sorted(seen)
        assert seen[-LIMIT // SIZE // 2 :] == list(range(total))[-LIMIT // SIZE // 2 :]
