"""Other people's code that misbehaves: it raises what no ``except Exception`` catches, or cancels its own task."""

import asyncio
from contextlib import suppress

import pytest

from broker import ConnectionLost, RemoteError, Status, StreamOptions
from broker.testing.waiting import eventually, never

pytestmark = [pytest.mark.nats, pytest.mark.fault]


def plain(body):
    return body


def as_coroutine(body):
    async def handler(msg):
        return body(msg)

    return handler


class Outcome(BaseException):
    """As what ``pytest.fail`` raises: no ``Exception``, and nothing that ends a process."""


both_kinds = pytest.mark.parametrize("kind", [plain, as_coroutine])


class TestRaisingStatusCallback:
    @pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, Outcome])
    async def test_nobody_else_is_kept_from_hearing_and_everything_comes_back(self, server, sb, error):
        def rude(_status):
            raise error("rude")

        seen, story, asked = [], [], asyncio.Event()

        async def listen():
            async for status in sb.status_changes():
                story.append(status)

        async def silent(_msg):
            asked.set()
            await asyncio.sleep(60)

        sb._backend.board.watch(rude)
        listening = asyncio.create_task(listen())
        await sb.subscribe("a", lambda msg: seen.append(msg.json()))
        await sb.respond("silent", silent)
        asking = asyncio.create_task(sb.request("silent", 1, timeout=60))
        await asyncio.wait_for(asked.wait(), 10)
        await server.kill()
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(asking, 10)
        await server.start()
        await eventually(lambda: sb.status is Status.CONNECTED, within=15)
        await sb.publish("a", 1)
        await eventually(lambda: seen == [1])
        await sb.aclose()
        await asyncio.wait_for(listening, 10)
        assert story == [Status.CONNECTED, Status.RECONNECTING, Status.CONNECTED, Status.CLOSED]

    async def test_a_listener_that_fails_half_way_is_forgotten(self, server, sb):
        async def listen():
            async for status in sb.status_changes():
                if status is Status.RECONNECTING:
                    raise ValueError("rude")

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await server.kill()
        with pytest.raises(ValueError, match="rude"):
            await asyncio.wait_for(listening, 10)
        await server.start()
        await eventually(lambda: sb.status is Status.CONNECTED, within=15)
        await sb.flush(timeout=10)


class TestHandlerRaisingCancelledError:
    @both_kinds
    @pytest.mark.parametrize("overflow", ["drop_oldest", "latest"])
    async def test_a_subscription_counts_it_and_lives(self, sb, kind, overflow):
        seen = []

        def body(msg):
            seen.append(msg.json())
            if msg.json() == 1:
                raise asyncio.CancelledError

        await sb.subscribe("a", kind(body), overflow=overflow)
        await sb.publish("a", 1)
        await eventually(lambda: seen == [1])
        await sb.publish("a", 2)
        await eventually(lambda: seen == [1, 2])
        assert sb.stats.handler_errors == 1
        assert sb.status == "connected"

    @both_kinds
    async def test_a_responder_answers_with_an_error_and_lives(self, sb, kind):
        def body(msg):
            if msg.json() == 1:
                raise asyncio.CancelledError
            return msg.json()

        await sb.respond("a", kind(body))
        for _ in range(2):
            with pytest.raises(RemoteError, match="Cancelled"):
                await sb.request("a", 1, timeout=10)
            assert (await sb.request("a", 2, timeout=10)).json() == 2
        assert sb.stats.handler_errors == 2

    @both_kinds
    async def test_a_consumption_gives_the_message_another_attempt_and_lives(self, sb, kind):
        await sb.declare(StreamOptions("S", ["s.>"]))
        seen = []

        def body(msg):
            seen.append((msg.json(), msg.attempt))
            if (msg.json(), msg.attempt) == (1, 1):
                raise asyncio.CancelledError

        consumption = await sb.consume("s.a", kind(body), durable="w", backoff=(0.05,))
        await sb.enqueue("s.a", 1)
        await eventually(lambda: seen == [(1, 1), (1, 2)], within=10)
        await sb.enqueue("s.a", 2)
        await eventually(lambda: sb.stats.acked == 2, within=10)
        assert (sb.stats.handler_errors, sb.stats.naked) == (1, 1)
        await never(consumption._runner.done, during=0.1)

    async def test_one_whose_own_task_was_cancelled_has_failed_too(self, sb):
        """The most common way to it: awaiting a task that somebody cancelled."""
        seen = []

        async def handler(msg):
            if msg.json() == 1:
                errand = asyncio.create_task(asyncio.sleep(60))
                errand.cancel()
                await errand
            seen.append(msg.json())

        await sb.subscribe("a", handler)
        await sb.publish("a", 1)
        await sb.publish("a", 2)
        await eventually(lambda: seen == [2])
        assert sb.stats.handler_errors == 1


class TestHandlerRaisingNoException:
    @both_kinds
    @pytest.mark.parametrize("error", [Outcome, GeneratorExit])
    async def test_a_subscription_counts_it_and_the_connection_lives(self, sb, kind, error):
        seen = []

        def body(msg):
            seen.append(msg.json())
            if msg.json() == 1:
                raise error

        await sb.subscribe("a", kind(body))
        await sb.subscribe("b", seen.append)
        for subject, number in (("a", 1), ("a", 2), ("b", 3)):
            await sb.publish(subject, number)
        await eventually(lambda: len(seen) == 3)
        assert (sb.stats.handler_errors, sb.stats.reconnects) == (1, 0)

    @both_kinds
    async def test_a_responder_answers_with_an_error_and_lives(self, sb, kind):
        def body(msg):
            if msg.json() == 1:
                raise Outcome("rude")
            return msg.json()

        await sb.respond("a", kind(body))
        with pytest.raises(RemoteError, match="rude"):
            await sb.request("a", 1, timeout=10)
        assert (await sb.request("a", 2, timeout=10)).json() == 2
        assert sb.stats.handler_errors == 1

    @both_kinds
    async def test_a_consumption_gives_the_message_another_attempt_and_lives(self, sb, kind):
        await sb.declare(StreamOptions("S", ["s.>"]))
        seen = []

        def body(msg):
            seen.append(msg.attempt)
            if msg.attempt == 1:
                raise Outcome

        await sb.consume("s.a", kind(body), durable="w", backoff=(0.05,))
        await sb.enqueue("s.a", 1)
        await eventually(lambda: seen == [1, 2], within=10)
        await eventually(lambda: sb.stats.acked == 1, within=10)
        assert (sb.stats.handler_errors, sb.stats.naked) == (1, 1)


async def cancels_and_waits():
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def cancels_and_returns():
    asyncio.current_task().cancel()


async def cancels_and_swallows():
    with suppress(asyncio.CancelledError):
        await cancels_and_waits()


async def cancels_and_raises():
    asyncio.current_task().cancel()
    raise ValueError


class TestHandlerCancellingItsOwnTask:
    @pytest.mark.parametrize(
        ("rude", "errors"),
        [(cancels_and_waits, 2), (cancels_and_returns, 1), (cancels_and_swallows, 1), (cancels_and_raises, 2)],
    )
    async def test_a_subscription_lives_and_can_still_be_stopped(self, sb, rude, errors):
        seen, told = [], []

        async def handler(msg):
            seen.append(msg.json())
            if msg.json() == 1:
                await rude()
            if msg.json() == 2:
                await asyncio.sleep(0)  # nobody else is hit by it
                raise asyncio.CancelledError
            if msg.json() == 3:
                try:
                    await asyncio.sleep(60)
                finally:
                    told.append("stopped")

        subscription = await sb.subscribe("a", handler)
        for number in (1, 2, 3):
            await sb.publish("a", number)
        await eventually(lambda: seen == [1, 2, 3])
        assert sb.stats.handler_errors == errors
        await asyncio.wait_for(subscription.unsubscribe(), 10)
        assert told == ["stopped"]
        assert subscription._pump.done()

    @pytest.mark.parametrize("rude", [cancels_and_waits, cancels_and_raises])
    async def test_a_responder_answers_with_an_error(self, sb, rude):
        async def answer(_msg):
            await rude()

        await sb.respond("a", answer)
        with pytest.raises(RemoteError):
            await sb.request("a", 1, timeout=10)
        assert sb.stats.handler_errors == 1

    @pytest.mark.parametrize("rude", [cancels_and_waits, cancels_and_raises])
    async def test_a_consumption_gives_the_message_another_attempt(self, sb, rude):
        await sb.declare(StreamOptions("S", ["s.>"]))
        seen = []

        async def handler(msg):
            seen.append(msg.attempt)
            if msg.attempt == 1:
                await rude()

        await sb.consume("s.a", handler, durable="w", backoff=(0.05,))
        await sb.enqueue("s.a", 1)
        await eventually(lambda: seen == [1, 2], within=10)
        await eventually(lambda: (sb.stats.handler_errors, sb.stats.naked) == (1, 1))

    async def test_a_consumption_of_a_plain_handler_lives_too(self, sb):
        await sb.declare(StreamOptions("S", ["s.>"]))
        seen = []

        def handler(msg):
            seen.append(msg.attempt)
            if msg.attempt == 1:
                asyncio.current_task().cancel()

        await sb.consume("s.a", handler, durable="w", backoff=(0.05,))
        await sb.enqueue("s.a", 1)
        await eventually(lambda: seen == [1, 2], within=10)
        await eventually(lambda: (sb.stats.handler_errors, sb.stats.naked, sb.stats.acked) == (1, 1, 1))


class TestRealCancellation:
    async def test_whoever_cancels_every_task_is_obeyed(self, sb):
        """As the end of ``asyncio.run`` does: a handler's loop that took it for the handler's own would never end."""
        running = asyncio.Event()

        async def handler(_msg):
            running.set()
            await asyncio.sleep(60)

        subscription = await sb.subscribe("a", handler)
        await sb.publish("a", 1)
        await asyncio.wait_for(running.wait(), 10)
        subscription._pump.cancel()
        await asyncio.wait({subscription._pump}, timeout=10)
        assert subscription._pump.cancelled()

    async def test_leaving_reaches_every_running_handler_and_is_no_failure(self, sb):
        await sb.declare(StreamOptions("S", ["s.>"]))
        running, told = [], []

        async def handler(msg):
            running.append(msg.subject)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                told.append(msg.subject)
                raise

        await sb.subscribe("a", handler)
        await sb.respond("b", handler)
        await sb.consume("s.c", handler, durable="w")
        await sb.publish("a", 1)
        asking = asyncio.create_task(sb.request("b", 1, timeout=60))
        await sb.enqueue("s.c", 1)
        await eventually(lambda: len(running) == 3, within=10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await sb.aclose()
        assert sorted(told) == ["a", "b", "s.c"]
        assert sb.stats.handler_errors == 0

    async def test_cancelling_the_caller_inside_its_handler_ends_the_caller(self, sb):
        """A handler that waits for a request of its own is cancelled with it; the other subscriptions stay."""
        waiting, seen, told = asyncio.Event(), [], []

        async def silent(_msg):
            waiting.set()
            await asyncio.sleep(60)

        async def asks(_msg):
            try:
                await sb.request("silent", 1, timeout=60)
            except asyncio.CancelledError:
                told.append("cancelled")
                raise

        await sb.respond("silent", silent)
        await sb.subscribe("other", lambda msg: seen.append(msg.json()))
        subscription = await sb.subscribe("a", asks)
        await sb.publish("a", 1)
        await asyncio.wait_for(waiting.wait(), 10)
        await asyncio.wait_for(subscription.unsubscribe(), 10)
        assert told == ["cancelled"]
        await sb.publish("other", 1)
        await eventually(lambda: seen == [1])
        await sb.aclose()
