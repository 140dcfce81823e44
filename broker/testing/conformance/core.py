"""Core messaging: what is published reaches whoever listens now, as it was sent and in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from broker.testing.conformance.scene import Conformance, Gate, arrived, bodies, fresh
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker import Message
    from broker.testing.conformance.scene import Connect


@dataclass
class Frame:
    """A body with a shape."""

    tick: int
    players: list[str]


class CoreConformance(Conformance):
    """Promises of ``publish_nowait``, ``publish`` and ``flush``, and what arrives."""

    async def test_a_published_message_reaches_a_handler(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, {"tick": 1})
        [msg] = await eventually(lambda: seen)
        assert (msg.subject, msg.json()) == (subject, {"tick": 1})

    async def test_publish_nowait_reaches_a_handler_on_another_connection(self, connect: Connect) -> None:
        room, player, subject, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        await player.subscribe(subject, seen.append)
        room.publish_nowait(subject, b"frame")
        [msg] = await eventually(lambda: seen)
        assert msg.data == b"frame"

    async def test_without_echo_only_others_hear_it(self, connect: Connect) -> None:
        sb, other, subject = await connect(echo=False), await connect(), fresh("battle")
        mine, shared, theirs = list[Any](), list[Any](), list[Any]()
        await sb.subscribe(subject, mine.append)
        await sb.subscribe(subject, shared.append, queue="gateways")
        await other.subscribe(subject, theirs.append)
        sb.publish_nowait(subject, 1)
        await sb.flush()
        await eventually(lambda: bodies(theirs) == [1])
        other.publish_nowait(subject, 2)
        await eventually(lambda: bodies(theirs) == [1, 2])
        await eventually(lambda: (bodies(mine), bodies(shared)) == ([2], [2]))

    async def test_an_async_handler_is_awaited(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("battle"), Gate()
        await sb.subscribe(subject, gate.handle)
        await sb.publish(subject, 1)
        await eventually(lambda: gate.started)
        assert not gate.finished
        gate.open()
        await eventually(lambda: gate.finished)

    async def test_bytes_are_sent_as_they_are(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        body = bytes(range(256)) + b"\r\nPUB x 0\r\n"
        await sb.publish(subject, body)
        [msg] = await eventually(lambda: seen)
        assert msg.data == body

    async def test_an_empty_body_arrives_empty(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, b"")
        await sb.publish(subject, b"", headers={"Kind": "empty"})
        first, second = await eventually(lambda: seen if len(seen) == 2 else None) or []
        assert (first.data, second.data, second.headers["Kind"]) == (b"", b"", "empty")

    async def test_decode_gives_the_type_asked_for(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, Frame(7, ["ann", "bo"]))
        [msg] = await eventually(lambda: seen)
        assert msg.decode(Frame) == Frame(7, ["ann", "bo"])

    async def test_headers_keep_case_order_and_every_value(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, b"", headers={"X-Room": "42", "x-Tag": ["a", "b", "a"]})
        [msg] = await eventually(lambda: seen)
        assert list(msg.headers) == ["X-Room", "x-Tag"]
        assert msg.headers["x-room"] == "42"
        assert msg.headers.get_all("X-TAG") == ["a", "b", "a"]

    async def test_header_values_may_hold_any_text(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, b"x", headers={"Name": "Zoë: 王, a:b", "Empty": ""})
        [msg] = await eventually(lambda: seen)
        assert dict(msg.headers) == {"Name": "Zoë: 王, a:b", "Empty": ""}

    async def test_without_headers_the_mapping_is_empty(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, b"x")
        [msg] = await eventually(lambda: seen)
        assert dict(msg.headers) == {}
        assert msg.headers.get_all("anything") == []

    async def test_a_plain_message_has_no_reply_subject(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, b"x")
        [msg] = await eventually(lambda: seen)
        assert msg.reply_to is None

    async def test_a_star_stands_for_one_token(self, connect: Connect) -> None:
        sb, root, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(f"{root}.*.state", seen.append)
        for tail in ("1.state", "2.state", "state", "1.2.state", "1.state.x", "1.chat"):
            await sb.publish(f"{root}.{tail}", b"")
        await sb.publish(f"{root}.end.state", b"")
        await eventually(lambda: len(seen) == 3)
        assert [m.subject for m in seen] == [f"{root}.{tail}" for tail in ("1.state", "2.state", "end.state")]

    async def test_a_greater_than_stands_for_one_or_more_tokens(self, connect: Connect) -> None:
        sb, root, seen = await connect(), fresh("battle"), list[Any]()
        await sb.subscribe(f"{root}.>", seen.append)
        for subject in (root, f"{root}.1", f"{root}x.1", f"{root}.1.2.3"):
            await sb.publish(subject, b"")
        await eventually(lambda: len(seen) == 2)
        assert [m.subject for m in seen] == [f"{root}.1", f"{root}.1.2.3"]

    async def test_one_subscription_sees_the_order_of_sending(self, connect: Connect) -> None:
        room, player, root, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        await player.subscribe(f"{root}.*", seen.append)
        for tick in range(500):
            room.publish_nowait(f"{root}.{tick % 3}", tick)
        await eventually(lambda: len(seen) == 500)
        assert bodies(seen) == list(range(500))

    async def test_an_async_handler_keeps_the_order_too(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()

        async def handle(msg: Message) -> None:
            await asyncio.sleep(0.002 if msg.json() % 2 else 0)
            seen.append(msg)

        await sb.subscribe(subject, handle)
        for tick in range(40):
            await sb.publish(subject, tick)
        await eventually(lambda: len(seen) == 40)
        assert bodies(seen) == list(range(40))

    async def test_every_subscription_gets_every_message(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        boxes: list[list[Any]] = [[], [], []]
        for box, owner in zip(boxes, (sb, sb, await connect()), strict=True):
            await owner.subscribe(subject, box.append)
        for tick in range(10):
            await sb.publish(subject, tick)
        await eventually(lambda: [len(box) for box in boxes] == [10, 10, 10])

    async def test_a_publisher_hears_itself(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("chat"), list[Any]()

        async def once(msg: Message) -> None:
            seen.append(msg)
            if msg.json() < 3:
                await sb.publish(msg.subject, msg.json() + 1)

        await sb.subscribe(subject, once)
        await sb.publish(subject, 0)
        await eventually(lambda: bodies(seen) == [0, 1, 2, 3])

    async def test_nobody_listening_is_no_error(self, connect: Connect) -> None:
        sb = await connect()
        sb.publish_nowait(fresh("battle"), b"x")
        await sb.publish(fresh("battle"), b"x")
        await sb.flush()
        assert sb.stats.published == 2

    async def test_what_was_sent_before_subscribing_does_not_arrive(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("battle"), list[Any]()
        await sb.publish(subject, "early")
        await sb.flush()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, "late")
        await eventually(lambda: seen)
        assert bodies(seen) == ["late"]

    async def test_a_subscription_is_active_when_subscribe_returns(self, connect: Connect) -> None:
        player, room, subject, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        for round_ in range(20):
            subscription = await player.subscribe(f"{subject}.{round_}", seen.append)
            room.publish_nowait(f"{subject}.{round_}", round_)
            await arrived(seen, round_ + 1)
            await subscription.unsubscribe()
        assert bodies(seen) == list(range(20))

    async def test_after_both_flushed_everything_sent_before_has_arrived(self, connect: Connect) -> None:
        room, player, subject, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        await player.subscribe(subject, seen.append)
        for tick in range(200):
            room.publish_nowait(subject, tick)
        await room.flush()
        await player.flush()
        await eventually(lambda: len(seen) == 200)

    async def test_publish_nowait_does_not_wait(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("battle")
        began = monotonic()
        for _ in range(2_000):
            sb.publish_nowait(subject, b"x" * 100)
        assert monotonic() - began < 5
        assert sb.stats.published == 2_000

    async def test_a_burst_drops_the_oldest_counts_it_and_keeps_the_newest(self, connect: Connect) -> None:
        room, player = await connect(outbound_limit=64 << 10), await connect()
        subject, seen = fresh("battle"), list[Any]()
        await player.subscribe(subject, seen.append)
        for tick in range(500):  # half a megabyte without giving the loop a chance to send
            room.publish_nowait(subject, f"{tick:04}".encode() + b"." * 1020)
        await eventually(lambda: len(seen) + room.stats.dropped_outbound == 500)
        ticks = [int(m.data[:4]) for m in seen]
        assert ticks == sorted(ticks)
        assert ticks[-1] == 499
        assert room.stats.published == 500

    async def test_publish_slows_a_flood_instead_of_dropping(self, connect: Connect) -> None:
        room, player = await connect(outbound_limit=64 << 10), await connect()
        subject, seen = fresh("battle"), list[Any]()
        await player.subscribe(subject, lambda msg: seen.append(int(msg.data[:4])))
        for tick in range(500):
            await room.publish(subject, f"{tick:04}".encode() + b"." * 1020)
        await eventually(lambda: len(seen) == 500)
        assert seen == list(range(500))
        assert room.stats.dropped_outbound == 0
