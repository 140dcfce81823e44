"""Subscriptions: nobody is held up by anybody, backlogs are bounded, and every ending is clean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.testing.conformance.scene import Conformance, Gate, bodies, fresh
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import Message, StreamBroker, Subscription
    from broker.testing.conformance.scene import Connect


class SubscribeConformance(Conformance):
    """Promises of ``subscribe``: isolation, bounded backlogs, queue groups, iteration and ending."""

    async def test_a_slow_handler_never_delays_another_subscription(self, connect: Connect) -> None:
        sb, subject, gate, seen = await connect(), fresh("battle"), Gate(), list[Any]()
        await sb.subscribe(subject, gate.handle)
        await sb.subscribe(subject, seen.append)
        for tick in range(50):
            await sb.publish(subject, tick)
        await eventually(lambda: len(seen) == 50 and gate.started)
        assert len(gate.started) == 1

    async def test_one_subscription_handles_one_message_at_a_time(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("battle"), Gate()
        await sb.subscribe(subject, gate.handle)
        for tick in range(5):
            await sb.publish(subject, tick)
        await eventually(lambda: gate.started)
        gate.open()
        await eventually(lambda: len(gate.finished) == 5)
        assert gate.most == 1

    @pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
    async def test_a_raising_handler_is_counted_and_goes_on(self, connect: Connect, plain: bool) -> None:  # noqa: FBT001 - pytest passes it by name
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()

        def handle(msg: Message) -> None:
            seen.append(msg.json())
            if msg.json() == 0:
                raise RuntimeError("boom")

        async def handle_async(msg: Message) -> None:
            handle(msg)

        await sb.subscribe(subject, handle if plain else handle_async)
        for tick in range(3):
            await sb.publish(subject, tick)
        await eventually(lambda: seen == [0, 1, 2])
        assert sb.stats.handler_errors == 1

    async def test_a_handler_raising_cancelled_error_goes_on(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()

        async def handle(msg: Message) -> None:
            seen.append(msg.json())
            if msg.json() == 0:
                raise asyncio.CancelledError

        await sb.subscribe(subject, handle)
        for tick in range(3):
            await sb.publish(subject, tick)
        await eventually(lambda: seen == [0, 1, 2])

    async def test_drop_oldest_keeps_the_newest_and_counts_the_rest(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("battle"), Gate()
        subscription = await self._backlog(sb, subject, gate, "drop_oldest")
        await eventually(lambda: subscription.dropped == 15)
        gate.open()
        await eventually(lambda: len(gate.finished) == 6)
        assert bodies(gate.finished) == [0, 16, 17, 18, 19, 20]
        assert sb.stats.dropped_inbound == 15

    async def test_drop_newest_keeps_the_oldest_and_counts_the_rest(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("battle"), Gate()
        subscription = await self._backlog(sb, subject, gate, "drop_newest")
        await eventually(lambda: subscription.dropped == 15)
        gate.open()
        await eventually(lambda: len(gate.finished) == 6)
        assert bodies(gate.finished) == [0, 1, 2, 3, 4, 5]
        assert sb.stats.dropped_inbound == 15

    async def test_pending_tells_the_backlog(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("battle"), Gate()
        subscription = await self._backlog(sb, subject, gate, "drop_oldest")
        await eventually(lambda: subscription.dropped == 15)
        assert subscription.pending == 5
        gate.open()
        await eventually(lambda: subscription.pending == 0)

    async def test_latest_keeps_only_the_newest_per_subject(self, connect: Connect) -> None:
        sb, root, gate = await connect(), fresh("battle"), Gate()
        await sb.subscribe(f"{root}.*", gate.handle, overflow="latest")
        await sb.publish(f"{root}.a", -1)
        await eventually(lambda: gate.started)
        for tick in range(10):
            await sb.publish(f"{root}.a", tick)
            await sb.publish(f"{root}.b", tick)
        await eventually(lambda: sb.stats.superseded == 18)
        gate.open()
        await eventually(lambda: len(gate.finished) == 3)
        assert {(m.subject, m.json()) for m in gate.finished[1:]} == {(f"{root}.a", 9), (f"{root}.b", 9)}

    async def test_a_reader_of_the_latest_that_slept_sees_the_newest_frame_next(self, connect: Connect) -> None:
        room, player, subject = await connect(), await connect(), fresh("battle")
        frames = await player.subscribe(subject, overflow="latest")
        for tick in range(100):
            await room.publish(subject, tick)
        await eventually(lambda: player.stats.received == 100)
        assert (await anext(frames)).json() == 99
        await room.publish(subject, 100)
        assert (await anext(frames)).json() == 100

    async def test_without_a_handler_it_is_iterated(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        subscription = await sb.subscribe(subject)
        for tick in range(5):
            await sb.publish(subject, tick)
        async for msg in subscription:
            seen.append(msg.json())
            if len(seen) == 5:
                break
        assert seen == list(range(5))

    async def test_iterating_waits_for_what_is_to_come(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        subscription = await sb.subscribe(subject)
        waiting = asyncio.create_task(anext(subscription))
        await never(waiting.done, during=0.05)
        await sb.publish(subject, "now")
        async with asyncio.timeout(5):
            assert (await waiting).json() == "now"

    @pytest.mark.parametrize("ending", ["unsubscribe", "aclose"])
    async def test_iterating_ends_with_the_subscription(self, connect: Connect, ending: str) -> None:
        sb, subject = await connect(), fresh("battle")
        subscription = await sb.subscribe(subject)
        reading = asyncio.create_task(_all_of(subscription))
        await sb.flush()
        await (subscription.unsubscribe() if ending == "unsubscribe" else sb.aclose())
        async with asyncio.timeout(5):
            assert await reading == []

    async def test_a_cancelled_iteration_loses_nothing(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        subscription = await sb.subscribe(subject)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(subscription)
        await sb.publish(subject, "kept")
        async with asyncio.timeout(5):
            assert (await anext(subscription)).json() == "kept"

    async def test_draining_a_subscription_handles_what_had_arrived(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("battle"), Gate()
        subscription = await sb.subscribe(subject, gate.handle)
        for tick in range(10):
            await sb.publish(subject, tick)
        await eventually(lambda: subscription.pending == 9)
        draining = asyncio.create_task(subscription.drain())
        await never(draining.done, during=0.05)
        gate.open()
        async with asyncio.timeout(5):
            await draining
        assert bodies(gate.finished) == list(range(10))
        await sb.publish(subject, "after")
        await never(lambda: len(gate.started) > 10, during=0.05)

    async def test_draining_an_iterated_subscription_gives_out_what_had_arrived(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        subscription = await sb.subscribe(subject)
        for tick in range(5):
            await sb.publish(subject, tick)
        await eventually(lambda: subscription.pending == 5)
        reading = asyncio.create_task(_all_of(subscription))
        async with asyncio.timeout(5):
            await subscription.drain()
            assert bodies(await reading) == list(range(5))

    async def test_unsubscribed_means_no_more_messages(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        subscription = await sb.subscribe(subject, seen.append)
        await sb.publish(subject, 1)
        await eventually(lambda: seen)
        await subscription.unsubscribe()
        await sb.publish(subject, 2)
        await never(lambda: len(seen) > 1, during=0.05)

    async def test_unsubscribing_twice_is_fine(self, connect: Connect) -> None:
        sb = await connect()
        subscription = await sb.subscribe(fresh("battle"), print)
        await subscription.unsubscribe()
        await subscription.unsubscribe()
        await subscription.drain()

    async def test_a_handler_may_end_its_own_subscription(self, connect: Connect) -> None:
        sb, subject, seen, own = await connect(), fresh("battle"), list[Any](), list[Any]()

        async def handle(msg: Message) -> None:
            seen.append(msg.json())
            await own[0].unsubscribe()
            seen.append("ended")

        own.append(await sb.subscribe(subject, handle))
        await sb.publish(subject, 1)
        await sb.publish(subject, 2)
        await eventually(lambda: "ended" in seen)
        await never(lambda: 2 in seen, during=0.05)

    async def test_a_queue_group_gives_each_message_to_one_member(self, connect: Connect) -> None:
        room, subject = await connect(), fresh("cmd")
        boxes: list[list[Any]] = [[], []]
        for box in boxes:
            member = await connect()
            await member.subscribe(subject, box.append, queue="workers")
        for command in range(100):
            await room.publish(subject, command)
        await eventually(lambda: sum(map(len, boxes)) == 100)
        assert sorted(bodies(boxes[0] + boxes[1])) == list(range(100))
        assert all(boxes), "the work is shared"

    async def test_a_queue_group_shares_within_one_connection_too(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("cmd")
        boxes: list[list[Any]] = [[], []]
        for box in boxes:
            await sb.subscribe(subject, box.append, queue="workers")
        for command in range(100):
            await sb.publish(subject, command)
        await eventually(lambda: sum(map(len, boxes)) == 100)
        assert sorted(bodies(boxes[0] + boxes[1])) == list(range(100))

    async def test_every_queue_group_and_every_plain_subscriber_hears(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("cmd")
        boxes: dict[str | None, list[Any]] = {"a": [], "b": [], None: []}
        for queue, box in boxes.items():
            await sb.subscribe(subject, box.append, queue=queue)
        for command in range(5):
            await sb.publish(subject, command)
        await eventually(lambda: [len(box) for box in boxes.values()] == [5, 5, 5])

    async def test_a_member_that_leaves_hands_the_work_to_the_rest(self, connect: Connect) -> None:
        room, leaver, stayer, subject = await connect(), await connect(), await connect(), fresh("cmd")
        seen: list[Any] = []
        await leaver.subscribe(subject, print, queue="workers")
        await stayer.subscribe(subject, seen.append, queue="workers")
        await leaver.aclose()
        for command in range(30):
            await room.publish(subject, command)
        await eventually(lambda: len(seen) == 30)

    @staticmethod
    async def _backlog(sb: StreamBroker, subject: str, gate: Gate, overflow: Any) -> Subscription:
        """One message in the handler's hands, then 20 more for room that takes 5."""
        subscription = await sb.subscribe(subject, gate.handle, pending_limit=5, overflow=overflow)
        await sb.publish(subject, 0)
        await eventually(lambda: gate.started)
        for tick in range(1, 21):
            await sb.publish(subject, tick)
        return subscription


async def _all_of(subscription: Subscription) -> list[Message]:
    return [msg async for msg in subscription]
