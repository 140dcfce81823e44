"""Requests: one reply, many replies, no listener, no answer in time, and a responder that raises."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    BrokerClosed,
    BrokerError,
    ConnectError,
    InvalidSubject,
    NoResponders,
    PayloadTooLarge,
    RemoteError,
    RequestError,
    RequestTimeout,
)
from broker.testing.conformance.scene import Conformance, Gate, always, fresh, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker import Message, StreamBroker
    from broker.testing.conformance.scene import Connect


class RequestReplyConformance(Conformance):
    """Promises of ``request``, ``request_many`` and ``respond``."""

    async def test_a_request_gets_the_reply(self, connect: Connect) -> None:
        asker, answerer, subject = await connect(), await connect(), fresh("rpc")

        async def double(msg: Message) -> int:
            return int(msg.json()) * 2

        await answerer.respond(subject, double)
        reply = await asker.request(subject, 21)
        assert reply.json() == 42

    async def test_a_plain_function_can_answer(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")
        await sb.respond(subject, lambda msg: msg.data + b"!")
        assert (await sb.request(subject, b"hi")).data == b"hi!"

    async def test_no_value_is_a_reply_too(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")

        async def nothing(_: Message) -> None: ...

        await sb.respond(subject, nothing)
        assert (await sb.request(subject, b"")).json() is None

    async def test_the_request_carries_headers_and_a_reply_subject(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("rpc"), list[Any]()
        await sb.respond(subject, seen.append)
        await sb.request(subject, b"", headers={"Player": "ann"})
        assert dict(seen[0].headers) == {"Player": "ann"}
        assert seen[0].reply_to

    async def test_a_handler_may_answer_by_hand(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")

        async def handle(msg: Message) -> None:
            await msg.respond({"ok": True}, headers={"Room": ["1", "2"]})

        await sb.subscribe(subject, handle)
        reply = await sb.request(subject, b"")
        assert reply.json() == {"ok": True}
        assert reply.headers.get_all("room") == ["1", "2"]

    async def test_a_responder_that_answered_by_hand_sends_one_reply(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")

        async def answer(msg: Message) -> str:
            await msg.respond("by hand")
            return "returned"

        await sb.respond(subject, answer)
        replies = [r.json() async for r in sb.request_many(subject, b"", timeout=1.5)]
        assert replies == ["by hand"]

    async def test_nothing_can_be_answered_that_asked_nothing(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("rpc"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.publish(subject, b"")
        await eventually(lambda: seen)
        with pytest.raises(InvalidSubject):
            await seen[0].respond(b"to nobody")

    async def test_nobody_listening_is_told_at_once_or_in_time(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")
        with pytest.raises((NoResponders, RequestTimeout)) as caught:
            await sb.request(subject, b"", timeout=0.5)
        assert caught.value.subject == subject

    async def test_no_answer_is_a_timeout_in_time(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("rpc"), Gate()
        await sb.respond(subject, gate.handle)
        began = monotonic()
        with pytest.raises(RequestTimeout) as caught:
            await sb.request(subject, b"", timeout=0.2)
        assert 0.15 < monotonic() - began < 2
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.subject == subject

    async def test_an_answer_too_late_is_not_taken_for_the_next_one(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("rpc"), Gate()

        async def answer(msg: Message) -> bytes:
            if msg.data == b"slow":
                await gate.handle(msg)
            return msg.data

        await sb.respond(subject, answer)
        with pytest.raises(RequestTimeout):
            await sb.request(subject, b"slow", timeout=0.1)
        gate.open()
        for number in range(20):
            assert (await sb.request(subject, str(number).encode())).data == str(number).encode()

    async def test_many_requests_in_flight_each_get_their_own_answer(self, connect: Connect) -> None:
        asker, answerer, subject = await connect(), await connect(), fresh("rpc")

        async def answer(msg: Message) -> int:
            await asyncio.sleep(0.01 if msg.json() % 3 else 0)
            return int(msg.json())

        await answerer.respond(subject, answer)
        replies = await asyncio.gather(*(asker.request(subject, n, timeout=10) for n in range(200)))
        assert [r.json() for r in replies] == list(range(200))

    @pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
    async def test_a_responder_that_raises_sends_the_error(self, connect: Connect, plain: bool) -> None:  # noqa: FBT001 - pytest passes it by name
        sb, subject = await connect(), fresh("rpc")

        def fail(msg: Message) -> None:
            raise KeyError(msg.json())

        async def fail_async(msg: Message) -> None:
            fail(msg)

        await sb.respond(subject, fail if plain else fail_async)
        with pytest.raises(RemoteError, match="no such room") as caught:
            await sb.request(subject, "no such room")
        assert caught.value.kind == "KeyError"
        assert caught.value.subject == subject

    async def test_a_responder_that_raised_goes_on_answering(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")

        async def invert(msg: Message) -> float:
            return 1 / float(msg.json())

        await sb.respond(subject, invert)
        with pytest.raises(RemoteError):
            await sb.request(subject, 0)
        assert (await sb.request(subject, 4)).json() == 0.25
        assert sb.stats.handler_errors == 1

    async def test_a_responder_raising_cancelled_error_answers_and_goes_on(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")

        async def answer(msg: Message) -> str:
            if msg.json() == "cancel":
                raise asyncio.CancelledError
            return "fine"

        await sb.respond(subject, answer)
        with pytest.raises(RemoteError):
            await sb.request(subject, "cancel", timeout=5)
        assert (await sb.request(subject, "go on")).json() == "fine"

    async def test_an_answer_that_cannot_be_encoded_is_an_error_reply(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")
        await sb.respond(subject, lambda _: object())
        with pytest.raises(RemoteError, match=f"the reply to '{subject}'") as caught:
            await sb.request(subject, b"", timeout=15)
        assert caught.value.kind == "EncodeError"
        assert sb.stats.handler_errors == 1

    @pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
    async def test_an_answer_that_is_too_large_is_an_error_reply_by_the_subject(
        self,
        connect: Connect,
        plain: bool,  # noqa: FBT001 - pytest passes it by name
    ) -> None:
        sb, subject = await connect(), fresh("rpc")

        def answer(_: Message) -> bytes:
            return b"x" * (64 << 20)

        async def answer_async(msg: Message) -> bytes:
            return answer(msg)

        await sb.respond(subject, answer if plain else answer_async)
        with pytest.raises(
            RemoteError, match=f"{64 << 20} bytes .*'{subject}' exceed .*limit of [0-9]+.* reply"
        ) as caught:
            await sb.request(subject, b"", timeout=15)
        assert caught.value.kind == "PayloadTooLarge"
        assert sb.stats.handler_errors == 1

    async def test_too_large_an_answer_by_hand_is_refused_by_the_subject_asked(self, connect: Connect) -> None:
        sb, subject, caught = await connect(), fresh("rpc"), list[PayloadTooLarge]()

        async def answer(msg: Message) -> None:
            try:
                await msg.respond(b"x" * (64 << 20))
            except PayloadTooLarge as exc:
                caught.append(exc)
            await msg.respond(b"smaller")

        await sb.respond(subject, answer)
        assert (await sb.request(subject, b"", timeout=15)).data == b"smaller"
        assert (caught[0].subject, caught[0].size) == (subject, 64 << 20)

    async def test_responders_run_side_by_side_up_to_their_concurrency(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("rpc"), Gate()
        await sb.respond(subject, gate.handle, concurrency=3)
        asking = [asyncio.create_task(sb.request(subject, n, timeout=10)) for n in range(8)]
        await eventually(lambda: gate.running == 3)
        await sb.flush()
        assert gate.most == 3
        gate.open()
        await asyncio.gather(*asking)
        assert gate.most == 3
        assert len(gate.finished) == 8

    async def test_a_queue_group_of_responders_shares_the_requests(self, connect: Connect) -> None:
        asker, subject = await connect(), fresh("rpc")
        boxes: list[list[Any]] = [[], []]
        for box in boxes:
            await (await connect()).respond(subject, box.append, queue="workers")
        await asyncio.gather(*(asker.request(subject, n, timeout=10) for n in range(60)))
        assert sorted(m.json() for m in boxes[0] + boxes[1]) == list(range(60))

    async def test_request_many_collects_every_reply(self, connect: Connect) -> None:
        asker, subject = await connect(), fresh("who")
        for room in range(3):
            await (await connect()).respond(subject, always(room))
        replies = [reply.json() async for reply in asker.request_many(subject, b"", timeout=1)]
        assert sorted(replies) == [0, 1, 2]

    async def test_request_many_ends_with_its_broker(self, connect: Connect) -> None:
        asker, answerer, subject, gate = await connect(), await connect(), fresh("who"), Gate()
        await answerer.respond(subject, gate.handle)
        collecting = asyncio.create_task(listed(asker.request_many(subject, b"", timeout=10)))
        await eventually(lambda: gate.running)
        await asker.aclose()
        with pytest.raises(BrokerClosed):
            await collecting

    async def test_request_many_ends_at_max_replies(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("who")
        for room in range(3):
            await sb.respond(subject, always(room))
        began = monotonic()
        replies = [reply.json() async for reply in sb.request_many(subject, b"", timeout=10, max_replies=2)]
        assert len(replies) == 2
        assert monotonic() - began < 5

    async def test_request_many_can_be_left_early(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("who")
        for room in range(3):
            await sb.respond(subject, always(room))
        replies = sb.request_many(subject, b"", timeout=10)
        assert (await anext(replies)).json() in {0, 1, 2}
        await replies.aclose()  # type: ignore[attr-defined]  # an async generator
        assert (await sb.request(subject, b"")).json() in {0, 1, 2}

    async def test_a_cancelled_request_ends_at_once(self, connect: Connect) -> None:
        sb, subject, gate = await connect(), fresh("rpc"), Gate()
        await sb.respond(subject, gate.handle)
        asking = asyncio.create_task(sb.request(subject, b"", timeout=30))
        await eventually(lambda: gate.started)
        asking.cancel()
        async with asyncio.timeout(1):
            with pytest.raises(asyncio.CancelledError):
                await asking
        gate.open()
        assert (await sb.request(subject, b"")).json() is None

    async def test_closing_fails_the_requests_in_flight(self, connect: Connect) -> None:
        asker, answerer, subject, gate = await connect(), await connect(), fresh("rpc"), Gate()
        await answerer.respond(subject, gate.handle)
        asking = asyncio.create_task(asker.request(subject, b"", timeout=15))
        await eventually(lambda: gate.started)
        await asker.aclose()
        async with asyncio.timeout(5):
            with pytest.raises(ConnectError):
                await asking

    async def test_a_responder_that_ended_answers_no_more(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")
        answering = await sb.respond(subject, lambda _: "here")
        assert (await sb.request(subject, b"")).json() == "here"
        await answering.unsubscribe()
        await sb.flush()
        with pytest.raises(RequestError):
            await sb.request(subject, b"", timeout=0.3)

    async def test_draining_lets_running_responders_answer(self, connect: Connect) -> None:
        asker, answerer, subject, gate = await connect(), await connect(), fresh("rpc"), Gate()
        await answerer.respond(subject, gate.handle)
        asking = [asyncio.create_task(asker.request(subject, n, timeout=10)) for n in range(5)]
        await eventually(lambda: gate.running == 5)
        draining = asyncio.create_task(answerer.drain())
        await asyncio.sleep(0.05)
        gate.open()
        async with asyncio.timeout(5):
            assert [reply.json() for reply in await asyncio.gather(*asking)] == [None] * 5
            await draining

    async def test_requests_and_time_outs_are_counted(self, connect: Connect) -> None:
        asker, answerer, subject, gate = await connect(), await connect(), fresh("rpc"), Gate()
        await answerer.respond(f"{subject}.silent", gate.handle)
        await answerer.respond(f"{subject}.quick", lambda _: 1)
        await asker.request(f"{subject}.quick", b"")
        with pytest.raises(RequestTimeout):
            await asker.request(f"{subject}.silent", b"", timeout=0.1)
        assert (asker.stats.requests, asker.stats.request_timeouts) == (2, 1)

    async def test_one_request_reaches_every_plain_subscriber_and_takes_the_first_reply(self, connect: Connect) -> None:
        sb, subject, seen = await connect(), fresh("rpc"), list[Any]()
        await sb.subscribe(subject, seen.append)
        await sb.respond(subject, lambda _: "reply")
        assert (await sb.request(subject, b"")).json() == "reply"
        await eventually(lambda: len(seen) == 1)

    async def test_a_failed_request_leaves_the_connection_usable(self, connect: Connect) -> None:
        sb, subject = await connect(), fresh("rpc")
        await self._fail_once(sb, subject)
        await sb.respond(subject, lambda _: "fine")
        assert (await sb.request(subject, b"")).json() == "fine"

    @staticmethod
    async def _fail_once(sb: StreamBroker, subject: str) -> None:
        with pytest.raises(BrokerError):
            await sb.request(subject, b"", timeout=0.2)
